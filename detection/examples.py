"""The validation images that are shown beside their detections: the same ones whatever was found."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from lightning.pytorch.loggers import Logger, WandbLogger

from classification.data import decode
from detection.coco import CocoAnnotations
from detection.results_file import Result
from runtime.tracking import Box, BoxedImage, log_boxes

EXAMPLES = 10
"""Images shown."""
MOST_BOXES = 15
"""Boxes in one image up to which a person sees what is what."""
LOWEST_SCORE = 0.05
"""Of the detections that are handed on; below it they hide each other."""


def varied(coco: CocoAnnotations, count: int = EXAMPLES) -> list[int]:
    """Places of `count` images chosen so that together they show much: classes, sizes, crowds, none at all.

    Chosen by the annotations alone, not by what was found. Greedy: a feature is worth half as much each time
    it was shown, and many features in one image count by their root. Images with more than MOST_BOXES come
    only where there are no others."""
    boxes = np.diff(coco.first)
    calm_first = sorted(range(len(coco)), key=lambda index: boxes[index] > MOST_BOXES)
    rest = calm_first[: max(count, int((boxes <= MOST_BOXES).sum()))]
    features = {index: _features(coco, index) for index in rest}
    shown: Counter[str] = Counter()
    chosen: list[int] = []
    while rest and len(chosen) < count:
        best = max(rest, key=lambda i: sum(0.5 ** shown[f] for f in features[i]) / len(features[i]) ** 0.5)
        rest.remove(best)
        chosen.append(best)
        shown.update(features[best])
    return sorted(chosen)


def _features(coco: CocoAnnotations, index: int) -> set[str]:
    rows = slice(coco.first[index], coco.first[index + 1])
    labels, areas, crowd = coco.labels[rows].tolist(), coco.areas[rows], coco.crowd[rows]
    if not labels:
        return {"empty"}
    sizes = {"small" if area < 32**2 else "medium" if area < 96**2 else "large" for area in areas.tolist()}
    number = {f"about {len(labels).bit_length()} bits of boxes"}
    return {f"class {label}" for label in labels} | sizes | number | ({"crowd"} if crowd.any() else set())


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
