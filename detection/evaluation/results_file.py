"""Detections in COCO's results format: `predictions.json`.

Legend: `D` detections.
"""

import itertools
import json
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from backbones.files import read_bytes, unreadable, write_atomically
from backbones.long_numbers import loads
from backbones.words import clipped
from detection.data.annotations import CocoAnnotations
from detection.data.coco_file import Int64
from detection.data.elements import UNREAD, Form, Key, finite, finite_box, read_elements, whole
from runtime.problems import SHOWN, Problem, refuse

log = logging.getLogger(__name__)


class Result(msgspec.Struct, gc=False):
    """One detection in COCO's results format. bbox: x, y, width, height in pixels of the stored image.

    gc: the collector need not look at these, which halves the time to read a million of them."""

    image_id: Int64
    category_id: Int64
    bbox: tuple[float, float, float, float]
    score: float


class Columns(NamedTuple):
    """Detections as arrays. image_ids, category_ids: `[D]` int64. boxes: `[D, 4]`, x, y, width, height.
    scores: `[D]`."""

    image_ids: NDArray[np.int64]
    category_ids: NDArray[np.int64]
    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]

    @classmethod
    def of(cls, results: Sequence[Result]) -> "Columns":
        """In the order of `results`."""
        count = len(results)
        boxes = itertools.chain.from_iterable([result.bbox for result in results])
        return cls(
            np.fromiter([result.image_id for result in results], np.int64, count),
            np.fromiter([result.category_id for result in results], np.int64, count),
            np.fromiter(boxes, np.float64, 4 * count).reshape(-1, 4),
            np.fromiter([result.score for result in results], np.float64, count),
        )

    def at(self, rows: NDArray[np.int64]) -> "Columns":
        """Those of these places."""
        return Columns(self.image_ids[rows], self.category_ids[rows], self.boxes[rows], self.scores[rows])


UNREAD_BOX = (0.0, 0.0, 1.0, 1.0)
"""Stands for a box that cannot be read, which is a problem of its own."""
RESULT = Form(
    Result,
    {
        "image_id": Key(whole, "a whole number", UNREAD),
        "category_id": Key(whole, "a whole number", UNREAD),
        "bbox": Key(finite_box, "four finite numbers: x, y, width, height in pixels", UNREAD_BOX),
        "score": Key(finite, "a finite number", 0.0),
    },
)


def to_results(image_id: int, prediction: Mapping[str, Any], category_ids: Sequence[int]) -> list[Result]:
    """Detections of one image, boxes in pixels of the stored image, rounded as they will be written.

    prediction: a `detection.formats.Prediction` on the CPU, or arrays of the same keys.
    Raises ValueError for a number that is not finite."""
    boxes, scores = (np.asarray(prediction[key], np.float64) for key in ("boxes", "scores"))
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
    """Reads COCO's results format; warns of boxes that can match nothing.

    Raises FileNotFoundError, or ValueError that has a line for each kind of fault: the file, the entry, the
    key, its value and what was expected."""
    problems: list[Problem] = []
    where, results = str(path), []
    for _, some in read_elements("detections", _entries(path), RESULT, problems, where, SHOWN):
        results += some
    columns = Columns.of(results)
    for key, given, known in (
        ("image_id", columns.image_ids, coco.image_ids),
        ("category_id", columns.category_ids, np.array(coco.category_ids)),
    ):
        wrong = np.flatnonzero(~np.isin(given, known) & (given != UNREAD)).tolist()
        rule = f"detections: {key} is not in {coco.path}, which has {_some(known.tolist())}"
        _add(problems, rule, "error", [(row, f"{key} = {given[row]}") for row in wrong], where)
    sizes = columns.boxes[:, 2:]
    negative = (sizes < 0).any(axis=1)
    for rule, rows in (
        (
            "detections: bbox has a negative width or height (are they x1, y1, x2, y2?)",
            negative,
        ),
        ("detections: bbox has no area", ~negative & (sizes == 0).any(axis=1)),
    ):
        found = np.flatnonzero(rows).tolist()
        _add(problems, rule, "warning", [(row, f"bbox = {list(results[row].bbox)}") for row in found], where)
    refuse(problems)
    for problem in problems:
        log.warning("%s", problem)
    return results


def _add(problems: list[Problem], rule: str, level: str, found: list[tuple[int, str]], where: str) -> None:
    if found:
        names = [f"detections[{row}]: {value}" for row, value in found[:SHOWN]]
        problems.append(Problem(rule, len(found), names, level, where))


def _some(ids: Sequence[int]) -> str:
    return ", ".join(map(str, ids[:SHOWN])) + (", …" if len(ids) > SHOWN else "")


def _entries(path: str | os.PathLike[str]) -> list[msgspec.Raw]:
    """Slices of the text. Raises FileNotFoundError, or ValueError that names the file."""
    data = read_bytes(path, "predictions")
    try:
        return msgspec.json.decode(data, type=list[msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        refusal = error
    try:
        content = loads(data)  # which reads Python's NaN
    except (ValueError, RecursionError) as error:
        if str(error).startswith("Extra data"):
            text = "expected one list of detections, found several values one after the other (JSON Lines?)"
            raise ValueError(f"{path}: {text}") from None
        fault = error if isinstance(refusal, msgspec.ValidationError) else refusal
        raise ValueError(f"{path}: {unreadable(fault)}") from None
    if not isinstance(content, list):
        keys = f" with the keys {clipped(list(content))}" if isinstance(content, dict) else ""
        raise ValueError(
            f"{path}: expected a list of detections with {', '.join(RESULT.keys)}, found "
            f"{'an object' if isinstance(content, dict) else clipped(content)}{keys}"
        )
    return [msgspec.Raw(json.dumps(entry).encode()) for entry in content]
