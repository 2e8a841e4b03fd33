"""COCO's numbers by pycocotools, from a detector or from a predictions file.

python -m detection.evaluate weights=detector.safetensors data=coco data.root=…
python -m detection.evaluate predictions=predictions.json data=coco data.root=…
"""

import contextlib
import io
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from backbones.files import write_atomically, write_json
from detection.coco import CocoAnnotations
from detection.coco_file import Id, decode_json
from detection.data import CocoDataConfig, DetectionImages, collate
from detection.detector import Detector
from detection.engines.base import Prediction
from runtime.loading import ResumableLoader
from runtime.progress import track

log = logging.getLogger(__name__)

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""In the order in which pycocotools gives them."""


class Result(msgspec.Struct):
    """One detection in COCO's results format. bbox: x, y, width, height in pixels of the stored image."""

    image_id: Id
    category_id: Id
    bbox: tuple[float, float, float, float]
    score: float


@dataclass(frozen=True)
class Evaluation:
    """metrics: the keys of METRICS, each in 0..1. per_class: by category name, `AP`, `AP50`, `AR100`.

    per_class is None where the category has no annotated box. undefined: metrics for which there is no
    annotated box, such as APs without small ones; pycocotools says -1, here they are 0.0."""

    metrics: dict[str, float]
    per_class: dict[str, dict[str, float | None]]
    undefined: list[str]


def to_results(image_id: int, prediction: Prediction, category_ids: Sequence[int]) -> list[Result]:
    """Detections of one image, boxes in pixels of the stored image, rounded as they will be written.

    Raises ValueError for a number that is not finite."""
    boxes = prediction["boxes"].double().cpu().numpy()
    scores = prediction["scores"].double().cpu().numpy()
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        raise ValueError(f"image {image_id}: a predicted box or score is not finite")
    corners = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).round(3)
    labels = prediction["labels"].tolist()
    return [
        Result(image_id, category_ids[label], tuple(box), score)
        for label, box, score in zip(labels, corners.tolist(), scores.round(6).tolist(), strict=True)
    ]


def write_results(path: str | os.PathLike[str], results: Sequence[Result]) -> None:
    """Writes `predictions.json`, COCO's results format."""
    write_atomically(path, msgspec.json.encode(results))


def read_results(path: str | os.PathLike[str], coco: CocoAnnotations) -> list[Result]:
    """Reads COCO's results format. Raises FileNotFoundError or ValueError that names file and key."""
    results = decode_json(path, list[Result], "predictions")
    for key, known in (("image_id", coco.image_ids.tolist()), ("category_id", coco.category_ids)):
        unknown = sorted({getattr(result, key) for result in results} - set(known))
        if unknown:
            raise ValueError(f"{path}: {key} {unknown[0]} is not in {coco.path} ({len(unknown)} such ids)")
    return results


def evaluate(coco: CocoAnnotations, results: Sequence[Result]) -> Evaluation:
    """COCO's 12 numbers of detections on all images of `coco`.

    No detections, no annotations or none of a size give 0.0 and a warning instead of an exception."""
    if not results:
        log.warning("no detections at all: every metric is 0")
    images = [{"id": image_id} for image_id in coco.image_ids.tolist()]
    rows = np.repeat(np.arange(len(coco)), np.diff(coco.first))
    columns = (
        range(1, len(rows) + 1),  # not the file's: pycocotools takes a match with id 0 for none
        coco.image_ids[rows].tolist(),
        [coco.category_ids[label] for label in coco.labels.tolist()],
        coco.bboxes.tolist(),
        coco.areas.tolist(),
        coco.crowd.astype(int).tolist(),
    )
    keys = ("id", "image_id", "category_id", "bbox", "area", "iscrowd")
    truth = [dict(zip(keys, row, strict=True)) for row in zip(*columns, strict=True)]
    found = [
        {
            "id": number,
            "image_id": result.image_id,
            "category_id": result.category_id,
            "bbox": list(result.bbox),
            "area": result.bbox[2] * result.bbox[3],
            "iscrowd": 0,
            "score": result.score,
        }
        for number, result in enumerate(results, start=1)
    ]
    categories = [{"id": i, "name": n} for i, n in zip(coco.category_ids, coco.category_names, strict=True)]
    with contextlib.redirect_stdout(io.StringIO()):
        scorer = COCOeval(_index(images, categories, truth), _index(images, categories, found), "bbox")
        scorer.evaluate()
        scorer.accumulate()
        scorer.summarize()
    values = [float(value) for value in scorer.stats]
    undefined = [name for name, value in zip(METRICS, values, strict=True) if value < 0]
    if undefined:
        log.warning("no annotated boxes for %s: reported as 0", ", ".join(undefined))
    metrics = {name: max(value, 0.0) for name, value in zip(METRICS, values, strict=True)}
    return Evaluation(metrics, _per_class(scorer, coco), undefined)


def _index(images: list[dict], categories: list[dict], annotations: list[dict]) -> COCO:
    """What `COCO.loadRes` and `COCO.__init__` make of files; `loadRes` raises for an empty list."""
    coco = COCO()
    coco.dataset = {"images": images, "categories": categories, "annotations": annotations}
    coco.createIndex()
    return coco


def _per_class(scorer: COCOeval, coco: CocoAnnotations) -> dict[str, dict[str, float | None]]:
    # precision: [IoU threshold, recall, category, area range, detections]; -1 where there is no box
    precision, recall = scorer.eval["precision"][:, :, :, 0, -1], scorer.eval["recall"][:, :, 0, -1]

    def mean(values: NDArray[np.float64]) -> float | None:
        known = values[values > -1]
        return float(known.mean()) if known.size else None

    return {
        name: {
            "AP": mean(precision[:, :, k]),
            "AP50": mean(precision[0, :, k]),
            "AR100": mean(recall[:, k]),
        }
        for k, name in enumerate(coco.category_names)
    }


def predict_all(detector: Detector, images: DetectionImages, workers: int) -> list[Result]:
    """Detections on every image of the set, in its order."""
    coco = images.coco
    loader = ResumableLoader(images, 1, seed=0, shuffle=False, workers=workers, collate=collate)
    results: list[Result] = []
    with track(len(images), "detecting", images_per_unit=1) as progress:
        for (sample,) in loader:
            height, width = coco.sizes[sample["index"]].tolist()
            prediction = detector.predict(sample["image"], (height, width))
            results += to_results(int(coco.image_ids[sample["index"]]), prediction, coco.category_ids)
            progress.advance()
    return results


@dataclass(kw_only=True)
class EvaluateConfig:
    """What is scored, on which data: a detector, or a predictions file without a model."""

    weights: str | None = None
    """A detector.safetensors."""
    predictions: str | None = None
    """A file in COCO's results format."""
    data: CocoDataConfig
    """Group `data`; its `val` split is scored."""
    device: str = "auto"
    """PyTorch's name of the device; `auto`: the GPU where there is one."""
    threads: int | None = None
    """Threads of PyTorch on CPU; None: PyTorch's choice."""
    output: str | None = None
    """Folder for predictions.json and metrics.json; None: the metrics are only printed."""

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads = {self.threads}, must be at least 1, or null for PyTorch's choice")
        if (self.weights is None) == (self.predictions is None):
            raise ValueError(
                f"weights = {self.weights}, predictions = {self.predictions}: give one of them, "
                "a detector.safetensors or a file in COCO's results format"
            )


def run(config: EvaluateConfig) -> dict[str, Any]:
    """Prints and returns the content of a `metrics.json`, without metrics where nothing is annotated."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    if config.weights is not None:
        detector = Detector.load(config.weights, config.device)
        images = detector.prepare(config.data.open("val"))
        coco = images.coco
        results = predict_all(detector, images, config.data.workers)
        if config.output is not None:
            write_results(Path(config.output) / "predictions.json", results)
    else:
        coco, _ = config.data.read("val")
        results = read_results(str(config.predictions), coco)
    content: dict[str, Any] = {"stage": "detection", "split": "val", "metrics": {}, "per_class": {}}
    if coco.annotated:
        content |= asdict(evaluate(coco, results))
    else:
        log.warning("%s has no annotations: no metrics, predictions only", coco.path)
    print(json.dumps(content, indent=2))
    if config.output is not None:
        write_json(Path(config.output) / "metrics.json", content)
    return content


if __name__ == "__main__":
    from conf.app import main

    # Imported again under its own name: the class that the configuration registers must be the one used here.
    from detection.evaluate import run as run_imported

    main("detection_evaluate", run_imported)
