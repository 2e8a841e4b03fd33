"""Precision against recall, as COCO computes both: `curves.json` in a run's folder.

K: classes.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from backbones.files import decode_json, write_atomically

FILE = "curves.json"
RECALLS = [i / 100 for i in range(101)]
"""Where COCO looks at the precision: 0, 0.01, … 1."""
MEANS = {"0.50": slice(0, 1), "0.75": slice(5, 6), "0.50:0.95": slice(None)}
"""Overlaps of the mean curves and their places among COCO's ten thresholds."""
CURVES_SHOWN = 10
"""Classes whose curves can be told apart in one chart."""


class Curves(msgspec.Struct):
    """Precision in 0..1 at each of RECALLS: the best at that recall or beyond, 100 detections per image.

    mean: over the annotated classes, by IoU as in MEANS. per_class: at IoU 0.50, by name; classes without
    annotated boxes have none. The mean of a curve is the AP that it belongs to."""

    mean: dict[str, list[float]]
    per_class: dict[str, list[float]]

    def best_and_worst(self, count: int = CURVES_SHOWN) -> dict[str, list[float]]:
        """Classes in their order; where there are more than `count` those with the highest AP50 and the
        lowest, best first."""
        if len(self.per_class) <= count:
            return self.per_class
        ranked = sorted(self.per_class.items(), key=lambda item: -sum(item[1]))
        return dict([*ranked[: count // 2], *ranked[-(count - count // 2) :]])


def curves_of(precision: NDArray[np.float64], names: Sequence[str]) -> Curves:
    """precision: `[10, 101, K]` by IoU, recall and class, -1 where a class has no annotated box."""
    known = [k for k in range(len(names)) if precision[0, 0, k] > -1]
    mean = {}
    if known:
        mean = {iou: _rounded(precision[at][:, :, known].mean(axis=(0, 2))) for iou, at in MEANS.items()}
    return Curves(mean, {names[k]: _rounded(precision[0, :, k]) for k in known})


def _rounded(curve: NDArray[np.float64]) -> list[float]:
    return curve.round(6).tolist()


def write_curves(folder: Path, curves: Curves) -> None:
    """Writes `curves.json` into `folder`."""
    write_atomically(folder / FILE, msgspec.json.encode(curves))


def read_curves(path: str | os.PathLike[str]) -> Curves:
    """Raises FileNotFoundError, or ValueError that names the file and the key."""
    curves = decode_json(path, Curves, "curves")
    for name, curve in (curves.mean | curves.per_class).items():
        if len(curve) != len(RECALLS):
            raise ValueError(f"{path}: {name} has {len(curve)} values, expected {len(RECALLS)}")
    return curves
