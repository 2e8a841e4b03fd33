"""Whether an exported file finds what the detector finds, on pictures."""

import copy
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from backbones.words import counted
from detection.deployment.runner import Runner
from detection.detector import Detector

TOLERANCE = 1e-3
"""Two are the same up to here: scores, and boxes in pixels or thousandths of a picture's longer side."""
LEAST_AGREEMENT = 0.95
"""Share of detections that file and detector must have in common. Not all, since an overlap may lie within
rounding of a threshold of NMS."""


@dataclass(frozen=True)
class Comparison:
    """pictures: how many. found: detections of both, together. alone: those without a partner in the other.
    box: the largest difference between partners, in pixels. score: likewise."""

    pictures: int
    found: int
    alone: int
    box: float
    score: float

    @property
    def agreement(self) -> float:
        return 1 - self.alone / self.found if self.found else 1.0

    def __str__(self) -> str:
        boxes = counted(self.found - self.alone, "detection")
        partners = f"boxes within {self.box:.2g} px and scores within {self.score:.2g} of {boxes}"
        return f"{partners}, {self.alone or 'none'} found by one alone"


def compare(detector: Detector, runner: Runner, pictures: Iterable[NDArray[np.uint8]]) -> Comparison:
    """pictures: `[H, W, 3]`, RGB.

    The detector pads pictures as the file's reader does, which on one map it would not do of itself."""
    engine = copy.deepcopy(detector.engine)
    engine.divisor = runner.multiple  # type: ignore[misc]
    padding = Detector(engine, detector.config, detector.categories, detector.input_size, detector.group_norm)
    count = found = alone = 0
    box = score = 0.0
    for picture in pictures:
        wanted = {key: value.numpy() for key, value in padding(picture)[0].items() if torch.is_tensor(value)}
        answer = runner(picture)
        tolerance = TOLERANCE * max(1.0, max(picture.shape[:2]) / 1000)
        lowest = runner.score_threshold
        if len(wanted["scores"]) == runner.most:  # the last place may go to another one of the same score
            lowest = max(lowest, float(wanted["scores"].min()))
        boxes = np.abs(wanted["boxes"][:, None] - answer["boxes"]).max(axis=2)
        scores = np.abs(wanted["scores"][:, None] - answer["scores"])
        same = (wanted["labels"][:, None] == answer["labels"]) & (boxes <= tolerance) & (scores <= TOLERANCE)
        for side, partner in ((wanted, same.any(axis=1)), (answer, same.any(axis=0))):
            counts = partner | (side["scores"] > lowest + TOLERANCE)  # at the threshold rounding decides
            found += int(counts.sum())
            alone += int((counts & ~partner).sum())
        if same.any():
            box = max(box, float(boxes[same].max()))
            score = max(score, float(scores[same].max()))
        count += 1
    return Comparison(count, found, alone, box, score)
