"""Detections drawn beside the ground truth: which images, where their labels fit, what was found.

Boxes are x, y, width, height in pixels of the stored image, as COCO has them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from classification.mistakes import data_uri
from detection.data.annotations import CocoAnnotations
from detection.data.xywh import intersection, iou, share_inside
from detection.evaluation.examples import LOWEST_SCORE, varied
from detection.evaluation.results_file import Result
from runtime.pictures import decode

Xywh = tuple[float, float, float, float]
Annotated = tuple[int, Xywh, bool]
"""Category id, box, whether it is a crowd region."""

FOUND_IOU = 0.5
"""Overlap from which a detection finds an object of its class."""
SCORES = (LOWEST_SCORE, 0.25, 0.5, 0.75)
"""From which detections can be seen, beside the score at which precision and recall balance."""
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
    detections: list[list[Result]] = [[] for _ in range(len(coco))]
    place = {image_id: index for index, image_id in enumerate(coco.image_ids.tolist())}
    for result in sorted(results, key=lambda result: -result.score):
        detections[place[result.image_id]].append(result)
    score, f1 = balanced_score(coco, detections)
    scores = sorted({score, *SCORES})
    pairs = [_pair(coco, index, detections[index], score, scores, folder) for index in varied(coco)]
    return Gallery(sorted(pairs, key=lambda pair: pair.height / pair.width), score, f1, scores)


def balanced_score(coco: CocoAnnotations, detections: Sequence[Sequence[Result]]) -> tuple[float, float]:
    """The score from which detections balance precision and recall best over all images, and F1 there.

    detections: of each image of `coco`, by falling score. A fixed score would show nothing of a detector that
    was trained for minutes, and too much of another. In hundredths, rounded down, as it is printed."""
    judged: list[tuple[float, bool]] = []
    for index, found in enumerate(detections):
        verdicts = judge(_truth(coco, index), found)
        judged += [(d.score, right) for d, right in zip(found, verdicts, strict=True) if right is not None]
    judged.sort(key=lambda item: -item[0])
    objects = int((~coco.crowd).sum())
    best_f1, best_score, rights = 0.0, SCORE_OF_NOTHING_RIGHT, 0
    for shown, (score, right) in enumerate(judged, 1):
        rights += right
        complete = shown == len(judged) or judged[shown][0] < score  # equal scores stand or fall together
        if complete and (f1 := 2 * rights / (shown + objects)) > best_f1:
            best_f1, best_score = f1, score
    return math.floor(best_score * 100) / 100, best_f1


def _truth(coco: CocoAnnotations, index: int) -> list[Annotated]:
    return [
        (coco.category_ids[int(coco.labels[row])], _xywh(coco.bboxes[row].tolist()), bool(coco.crowd[row]))
        for row in range(int(coco.first[index]), int(coco.first[index + 1]))
    ]


def judge(truth: Sequence[Annotated], detections: Sequence[Result]) -> list[bool | None]:
    """Whether each detection finds an object, each object once; None for one inside a crowd of its class.

    detections: by falling score; as in COCO's matching, what comes later does not change a verdict."""
    free = [(category, box) for category, box, crowd in truth if not crowd]
    crowds = [(category, box) for category, box, crowd in truth if crowd]
    verdicts: list[bool | None] = []
    for detection in detections:
        same = [box for category, box in free if category == detection.category_id]
        nearest = max(same, key=lambda box: iou(box, detection.bbox), default=None)
        if nearest is not None and iou(nearest, detection.bbox) >= FOUND_IOU:
            free.remove((detection.category_id, nearest))
            verdicts.append(True)
        else:
            excused = any(
                category == detection.category_id and share_inside(detection.bbox, box) >= FOUND_IOU
                for category, box in crowds
            )
            verdicts.append(None if excused else False)
    return verdicts


def _pair(
    coco: CocoAnnotations,
    index: int,
    detections: Sequence[Result],
    score: float,
    scores: Sequence[float],
    folder: Path,
) -> Pair:
    """detections: all of the image, by falling score, which are drawn from the lowest of `scores` on."""
    height, width = (int(side) for side in coco.sizes[index])
    names = dict(zip(coco.category_ids, coco.category_names, strict=True))
    # Steps of the golden angle keep the colours of any number of classes apart.
    hues = {category: int(360 * (0.57 + 0.618034 * i) % 360) for i, category in enumerate(coco.category_ids)}

    def drawn(category: int, box: Xywh, **more: Any) -> DrawnBox:
        return DrawnBox(names[category], hues[category], _place(box, width, height), **more)

    truth = _truth(coco, index)
    shown = [detection for detection in detections if detection.score >= scores[0]]
    verdicts = judge(truth, shown)
    chosen = [right for detection, right in zip(shown, verdicts, strict=True) if detection.score >= score]
    annotated = [drawn(category, box, crowd=crowd) for category, box, crowd in truth]
    predicted = [
        drawn(
            detection.category_id,
            detection.bbox,
            score=detection.score,
            wrong=right is False,
            steps=sum(detection.score >= step for step in scores),
        )
        for detection, right in zip(shown, verdicts, strict=True)
    ]
    place_labels(annotated, [box for _, box, _ in truth], width, height)
    place_labels(predicted, [detection.bbox for detection in shown], width, height)
    return Pair(
        str(coco.file_names[index]),
        width,
        height,
        data_uri(decode(folder / str(coco.file_names[index])), LONGEST_SIDE),
        annotated,
        predicted,
        found=chosen.count(True),
        wrong=chosen.count(False),
        shown=len(chosen),
        objects=sum(not crowd for _, _, crowd in truth),
        best_score=detections[0].score if detections else None,
    )


def _xywh(values: Sequence[float]) -> Xywh:
    x, y, width, height = values
    return (x, y, width, height)


def _place(box: Xywh, width: int, height: int) -> str:
    x, y, w, h = (100 * value / side for value, side in zip(box, (width, height) * 2, strict=True))
    return f"left:{x:.2f}%;top:{y:.2f}%;width:{w:.2f}%;height:{h:.2f}%"


def place_labels(boxes: Sequence[DrawnBox], bboxes: Sequence[Xywh], width: int, height: int) -> None:
    """Gives each box its label where it meets no other and stays in the panel; the first come first."""
    scale = PANEL_WIDTH / width
    taken: list[Xywh] = []
    for box, (x, y, w, h) in zip(boxes, bboxes, strict=True):
        left, top, bottom = x * scale, y * scale, (y + h) * scale
        text = box.name if box.score is None else f"{box.name} {box.score:.2f}"
        text = f"✗ {text}" if box.wrong else text
        length = LETTER_WIDTH * len(text) + 6
        right = left + length > PANEL_WIDTH
        left = (x + w) * scale - length if right else left
        for corner, label_top in (("above", top - LABEL_HEIGHT), ("inside", top), ("below", bottom)):
            label = (left, label_top, length, float(LABEL_HEIGHT))
            fits = left >= 0 and label_top >= 0 and label_top + LABEL_HEIGHT <= height * scale
            if fits and not any(intersection(label, other) for other in taken):
                taken.append(label)
                box.label, box.corner = text, f"{corner} right" if right else corner
                break
