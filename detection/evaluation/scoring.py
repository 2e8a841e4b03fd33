"""COCO's numbers of detections: by pycocotools, which are reported, or hotcoco, which are equal."""

import contextlib
import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backbones.words import counted
from detection.data.annotations import CocoAnnotations
from detection.evaluation.curves import Curves, curves_of
from detection.evaluation.results_file import Columns, Result
from detection.evaluation.scorers import scorer

log = logging.getLogger(__name__)

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""In the order in which pycocotools gives them."""

_ALL = slice(None)
_PLACES: Mapping[str, tuple[str, Any, int, int]] = {
    "AP": ("precision", _ALL, 0, 2),
    "AP50": ("precision", slice(0, 1), 0, 2),
    "AP75": ("precision", slice(5, 6), 0, 2),
    "APs": ("precision", _ALL, 1, 2),
    "APm": ("precision", _ALL, 2, 2),
    "APl": ("precision", _ALL, 3, 2),
    "AR1": ("recall", _ALL, 0, 0),
    "AR10": ("recall", _ALL, 0, 1),
    "AR100": ("recall", _ALL, 0, 2),
    "ARs": ("recall", _ALL, 1, 2),
    "ARm": ("recall", _ALL, 2, 2),
    "ARl": ("recall", _ALL, 3, 2),
}
"""What each metric is the mean of: an array, its IoU thresholds, area range and number of detections."""


@dataclass(frozen=True)
class Evaluation:
    """metrics: the keys of METRICS, each in 0..1, but for those that are undefined. per_class: by category.

    A value of per_class is None where the category has no annotated box of that size. undefined: metrics
    for which there is no annotated box, such as APs without small ones; -1 in pycocotools."""

    metrics: dict[str, float]
    per_class: dict[str, dict[str, float | None]]
    undefined: list[str]
    curves: Curves

    def summary(self) -> str:
        """All metrics in one line, in percent: `AP 23.2  AP50 41.6  …`; a dash for what is undefined."""
        values = {name: f"{100 * value:.1f}" for name, value in self.metrics.items()}
        return "  ".join(f"{name} {values.get(name, '-')}" for name in METRICS)


def evaluate(coco: CocoAnnotations, results: Sequence[Result], evaluator: str = "pycocotools") -> Evaluation:
    """COCO's 12 numbers of detections on all images of `coco`. evaluator: one of `config.EVALUATORS`.

    No detections give 0.0 and a warning. Metrics for which nothing is annotated are left out.
    Raises ValueError for a box or score that is not finite."""
    found = Columns.of(results)
    _check_finite(found)
    if not results:
        log.warning("no detections at all: every metric is 0")
    with contextlib.redirect_stdout(io.StringIO()):
        scored = scorer(evaluator)(coco, found)
        scored.evaluate()
        scored.accumulate()
        scored.summarize()
    values = [float(value) for value in scored.stats[: len(METRICS)]]
    undefined = [name for name, value in zip(METRICS, values, strict=True) if value < 0]
    if undefined:
        log.warning("no annotated boxes for %s: left out", ", ".join(undefined))
    evaluation = Evaluation(
        {name: value for name, value in zip(METRICS, values, strict=True) if value >= 0},
        _per_class(scored.eval, coco.category_names),
        undefined,
        curves_of(scored.eval["precision"][:, :, :, 0, -1], coco.category_names),
    )
    log.info("%s, %s, in %%: %s", coco.path.name, counted(len(coco), "image"), evaluation.summary())
    return evaluation


def _check_finite(found: Columns) -> None:
    """Raises ValueError that names the first detection with a box or score that is not finite."""
    broken = np.flatnonzero(~(np.isfinite(found.boxes).all(axis=1) & np.isfinite(found.scores)))
    if len(broken):
        first = broken[0]
        raise ValueError(
            f"{len(broken)} of {len(found.scores)} detections have a box or score that is not finite; "
            f"first {found.boxes[first].tolist()} with score {found.scores[first]} in image "
            f"{found.image_ids[first]}"
        )


def _per_class(
    arrays: Mapping[str, NDArray[np.float64]], names: Sequence[str]
) -> dict[str, dict[str, float | None]]:
    """arrays: precision `[IoU, recall, class, size, detections]` and recall, the same without recalls."""

    def mean(key: str, k: int) -> float | None:
        array, iou, size, detections = _PLACES[key]
        values = arrays[array][iou][..., k, size, detections]  # -1 where there is no box
        known = values[values > -1]
        return float(known.mean()) if known.size else None

    return {name: {key: mean(key, k) for key in METRICS} for k, name in enumerate(names)}
