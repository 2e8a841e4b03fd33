"""What wandb gets of a detector's evaluation, where it is used."""

from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch.loggers import Logger, WandbLogger

from detection.data.annotations import CocoAnnotations
from detection.evaluation.curves import RECALLS, Curves
from detection.evaluation.examples import LOWEST_SCORE, varied
from detection.evaluation.results_file import Result
from runtime.pictures import decode
from runtime.tracking import Box, BoxedImage, log_boxes, log_lines


def log_curves(loggers: Sequence[Logger], curves: Curves, split: str) -> None:
    """Hands the mean curves, and those of the best and worst classes, to wandb where it is used."""
    for name, lines in (
        ("precision_recall", {f"IoU {iou}": curve for iou, curve in curves.mean.items()}),
        ("precision_recall_of_classes", curves.best_and_worst()),
    ):
        if lines:
            log_lines(loggers, f"{split}/{name}", "recall", RECALLS, lines)


def log_examples(
    loggers: Sequence[Logger], coco: CocoAnnotations, folder: Path, results: Sequence[Result], split: str
) -> None:
    """Hands the examples to wandb where it is used, with what is annotated and what was found in them.

    folder: of the images. Raises FileNotFoundError or ValueError for one that cannot be read."""
    if not any(isinstance(logger, WandbLogger) for logger in loggers):
        return
    chosen = varied(coco)
    found: dict[int, list[Result]] = {int(coco.image_ids[index]): [] for index in chosen}
    for result in results:
        if result.image_id in found and result.score >= LOWEST_SCORE:
            found[result.image_id].append(result)
    images = [
        BoxedImage(
            decode(folder / str(coco.file_names[index])),
            str(coco.file_names[index]),
            {
                "annotated": _annotated(coco, index),
                "detected": [_box(r.bbox, r.category_id, r.score) for r in found[int(coco.image_ids[index])]],
            },
        )
        for index in chosen
    ]
    names = dict(zip(coco.category_ids, coco.category_names, strict=True))
    log_boxes(loggers, f"{split}/examples", images, names)


def _annotated(coco: CocoAnnotations, index: int) -> list[Box]:
    rows = slice(coco.first[index], coco.first[index + 1])
    pairs = zip(coco.bboxes[rows].tolist(), coco.labels[rows].tolist(), strict=True)
    return [_box(bbox, coco.category_ids[label], None) for bbox, label in pairs]


def _box(bbox: Sequence[float], category_id: int, score: float | None) -> Box:
    x, y, width, height = bbox
    return Box((x, y, x + width, y + height), category_id, score)
