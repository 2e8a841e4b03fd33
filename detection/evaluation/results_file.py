"""Detections in COCO's results format: `predictions.json`."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from backbones.files import decode_json, write_atomically
from detection.data.annotations import CocoAnnotations
from detection.data.coco_file import Id

if TYPE_CHECKING:
    from detection.formats import Prediction


class Result(msgspec.Struct):
    """One detection in COCO's results format. bbox: x, y, width, height in pixels of the stored image."""

    image_id: Id
    category_id: Id
    bbox: tuple[float, float, float, float]
    score: float


def to_results(image_id: int, prediction: "Prediction", category_ids: Sequence[int]) -> list[Result]:
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
