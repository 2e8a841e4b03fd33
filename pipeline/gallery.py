"""Detections drawn beside the ground truth: which images, where their labels fit, what was found.

Boxes are x, y, width, height in pixels of the stored image, as COCO has them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classification.mistakes import data_uri
from detection.data.annotations import CocoAnnotations
from detection.evaluation.examples import LOWEST_SCORE, varied
from detection.evaluation.matches import Matches, match
from detection.evaluation.results_file import Result
from runtime.pictures import decode

Detected = tuple[Result, bool, bool]
"""A detection, whether it is right, whether it is wrong; neither where it does not count."""
SCORES = (LOWEST_SCORE, 0.25, 0.5, 0.75)
"""From which detections can be seen, beside the score at which precision and recall balance …"""
APART = 0.05
"""… and unless they are nearer to it than this."""
SCORE_OF_NOTHING_RIGHT = 0.5
"""From which detections are shown where none is right."""
LONGEST_SIDE = 420
"""Pixels of an embedded image: sharp at the size shown, small in the file."""
PANEL_WIDTH, LABEL_HEIGHT, LETTER_WIDTH = 250, 15, 6.2
"""CSS pixels, assumed where labels are placed; on a narrower page they lie closer."""


@dataclass
class DrawnBox:
    """A box of one panel. place: its position in percent of the panel, as CSS.

    label: what is written at it; empty where there is no room (the tooltip keeps it).
    corner: `above`, `inside` or `below`, with `right` where it would leave the panel."""

    name: str
    hue: int
    place: str
    score: float | None = None
    crowd: bool = False
    wrong: bool = False
    steps: int = 0
    """Of the gallery's scores, those that its own reaches."""
    label: str = ""
    corner: str = ""

    @property
    def title(self) -> str:
        score = "" if self.score is None else f" {self.score:.2f}"
        return (
            f"{self.name}{score}{' (crowd region)' if self.crowd else ''}{' (wrong)' if self.wrong else ''}"
        )


@dataclass
class Pair:
    """One image with its annotated boxes and with the detections."""

    file_name: str
    width: int
    height: int
    data_uri: str
    truth: list[DrawnBox]
    predicted: list[DrawnBox]
    found: int
    """Annotated objects, crowds left out, that a detection with the chosen score finds."""
    wrong: int
    """Detections with the chosen score that find none."""
    shown: int
    """Detections with the chosen score."""
    objects: int
    """Annotated ones, crowds left out."""
    best_score: float | None
    """Of all detections, also of those not shown."""


@dataclass
class Gallery:
    """Pairs, and the scores from which on their detections are seen: first `score`, where F1 is `f1`."""

    pairs: list[Pair]
    score: float
    f1: float
    scores: list[float]
    """What can be chosen, ascending; `score` is one of them."""


def gallery(coco: CocoAnnotations, results: Sequence[Result], folder: Path) -> Gallery:
    """The example images as pairs, wide ones first so that rows have one height.

    Raises FileNotFoundError or ValueError for an image that cannot be read."""
    ranked = sorted(results, key=lambda result: -result.score)
    matches = match(coco, ranked)
    score, f1 = balanced_score(np.array([result.score for result in ranked]), matches)
    scores = sorted([score, *(each for each in SCORES if round(abs(each - score), 2) >= APART)])
    examples = varied(coco)
    found: dict[int, list[Detected]] = {int(coco.image_ids[index]): [] for index in examples}
    for detected in zip(ranked, matches.right.tolist(), matches.wrong.tolist(), strict=True):
        if (image_id := detected[0].image_id) in found:
            found[image_id].append(detected)
    pairs = [
        _pair(coco, index, found[int(coco.image_ids[index])], matches, score, scores, folder)
        for index in examples
    ]
    return Gallery(sorted(pairs, key=lambda pair: pair.height / pair.width), score, f1, scores)


def balanced_score(scores: NDArray[np.float64], matches: Matches) -> tuple[float, float]:
    """The score from which detections balance precision and recall best over all images, and F1 there.

    scores: of the detections, falling. A fixed score would show nothing of a detector that was trained for
    minutes, and too much of another. In hundredths, rounded down, as it is printed."""
    counted = matches.right | matches.wrong
    scores, right = scores[counted], matches.right[counted]
    if not right.any():
        return SCORE_OF_NOTHING_RIGHT, 0.0
    f1 = 2 * right.cumsum() / (np.arange(1, len(right) + 1) + matches.objects.sum())
    f1[:-1][scores[1:] == scores[:-1]] = 0.0  # equal scores stand or fall together
    best = f1.argmax()
    return math.floor(scores[best] * 100) / 100, float(f1[best])


def _pair(
    coco: CocoAnnotations,
    index: int,
    found: Sequence[Detected],
    matches: Matches,
    score: float,
    scores: Sequence[float],
    folder: Path,
) -> Pair:
    """found: all of the image, by falling score, which are drawn from the lowest of `scores` on."""
    height, width = (int(side) for side in coco.sizes[index])
    rows = slice(coco.first[index], coco.first[index + 1])

    def drawn(label: int, box: Sequence[float], **more: Any) -> DrawnBox:
        # Steps of the golden angle keep the colours of any number of classes apart.
        hue = int(360 * (0.57 + 0.618034 * label) % 360)
        return DrawnBox(coco.category_names[label], hue, _place(box, width, height), **more)

    bboxes = coco.bboxes[rows].tolist()
    truth = zip(coco.labels[rows].tolist(), bboxes, coco.crowd[rows].tolist(), strict=True)
    annotated = [drawn(label, box, crowd=crowd) for label, box, crowd in truth]
    shown = [detected for detected in found if detected[0].score >= scores[0]]
    predicted = [
        drawn(
            coco.category_ids.index(result.category_id),
            result.bbox,
            score=result.score,
            wrong=wrong,
            steps=sum(result.score >= step for step in scores),
        )
        for result, _, wrong in shown
    ]
    place_labels(annotated, bboxes, width, height)
    place_labels(predicted, [result.bbox for result, _, _ in shown], width, height)
    chosen = [detected for detected in shown if detected[0].score >= score]
    return Pair(
        str(coco.file_names[index]),
        width,
        height,
        data_uri(decode(folder / str(coco.file_names[index])), LONGEST_SIDE),
        annotated,
        predicted,
        found=sum(right for _, right, _ in chosen),
        wrong=sum(wrong for _, _, wrong in chosen),
        shown=len(chosen),
        objects=int(matches.objects[rows].sum()),
        best_score=found[0][0].score if found else None,
    )


def _place(box: Sequence[float], width: int, height: int) -> str:
    x, y, w, h = (100 * value / side for value, side in zip(box, (width, height) * 2, strict=True))
    return f"left:{x:.2f}%;top:{y:.2f}%;width:{w:.2f}%;height:{h:.2f}%"


def place_labels(
    boxes: Sequence[DrawnBox], bboxes: Sequence[Sequence[float]], width: int, height: int
) -> None:
    """Gives each box its label where it meets no other and stays in the panel; the first come first."""
    scale = PANEL_WIDTH / width
    taken: list[tuple[float, float, float]] = []
    for box, (x, y, w, h) in zip(boxes, bboxes, strict=True):
        left, top, bottom = x * scale, y * scale, (y + h) * scale
        text = box.name if box.score is None else f"{box.name} {box.score:.2f}"
        text = f"✗ {text}" if box.wrong else text
        length = LETTER_WIDTH * len(text) + 6
        right = left + length > PANEL_WIDTH
        left = (x + w) * scale - length if right else left
        for corner, label_top in (("above", top - LABEL_HEIGHT), ("inside", top), ("below", bottom)):
            fits = left >= 0 and label_top >= 0 and label_top + LABEL_HEIGHT <= height * scale
            if fits and not any(
                left < end and start < left + length and abs(label_top - other) < LABEL_HEIGHT
                for start, end, other in taken
            ):
                taken.append((left, left + length, label_top))
                box.label, box.corner = text, f"{corner} right" if right else corner
                break
