"""Detections drawn beside the ground truth: which images, where their labels fit, what was found.

Boxes are x, y, width, height in pixels of the stored image, as COCO has them.
"""

import base64
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from classification.data import decode
from detection.coco import CocoAnnotations
from detection.evaluate import Result

Xywh = tuple[float, float, float, float]

SCORE = 0.5
"""Detections below are not shown."""
FOUND_IOU = 0.5
MOST_BOXES = 15
"""Boxes in one image up to which a person sees what is what."""
LONGEST_SIDE = 420
"""Pixels of an embedded image: sharp at the size shown, small in the file."""
JPEG_QUALITY = 80
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
    """Annotated objects with a detection of their class that overlaps by FOUND_IOU; crowds do not count."""
    objects: int
    best_score: float | None
    """Of all detections, also below SCORE."""

    @property
    def wrong(self) -> int:
        return sum(box.wrong for box in self.predicted)


def gallery(coco: CocoAnnotations, results: Sequence[Result], folder: Path, count: int = 12) -> list[Pair]:
    """The `count` most different validation images as pairs, wide ones first so that rows have one height.

    Raises FileNotFoundError or ValueError for an image that cannot be read."""
    detections: dict[int, list[Result]] = {}
    for result in results:
        detections.setdefault(result.image_id, []).append(result)
    pairs = [
        _pair(coco, index, detections.get(int(coco.image_ids[index]), []), folder)
        for index in varied(coco, count)
    ]
    return sorted(pairs, key=lambda pair: pair.height / pair.width)


def varied(coco: CocoAnnotations, count: int) -> list[int]:
    """Places of `count` images chosen so that together they show much: classes, sizes, crowds, none at all.

    Chosen by the annotations alone, not by what was found. Greedy: a feature is worth half as much each time
    it was shown, and many features in one image count by their root. Images with more than MOST_BOXES come
    only where there are no others."""
    boxes = np.diff(coco.first)
    rest = sorted(range(len(coco)), key=lambda index: boxes[index] > MOST_BOXES)
    calm = int((boxes <= MOST_BOXES).sum())
    rest = rest[: max(calm, count)]
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


def _pair(coco: CocoAnnotations, index: int, detections: Sequence[Result], folder: Path) -> Pair:
    height, width = (int(side) for side in coco.sizes[index])
    names = dict(zip(coco.category_ids, coco.category_names, strict=True))
    # Steps of the golden angle keep the colours of any number of classes apart.
    hues = {category: int(360 * (0.57 + 0.618034 * i) % 360) for i, category in enumerate(coco.category_ids)}

    def drawn(category: int, box: Xywh, **more: Any) -> DrawnBox:
        return DrawnBox(names[category], hues[category], _place(box, width, height), **more)

    truth = [
        (coco.category_ids[int(coco.labels[row])], _xywh(coco.bboxes[row].tolist()), bool(coco.crowd[row]))
        for row in range(int(coco.first[index]), int(coco.first[index + 1]))
    ]
    objects = [(category, box) for category, box, crowd in truth if not crowd]
    crowds = [(category, box) for category, box, crowd in truth if crowd]
    shown = sorted((d for d in detections if d.score >= SCORE), key=lambda d: -d.score)
    found, right = match(objects, shown)
    predicted = []
    for detection, ok in zip(shown, right, strict=True):
        category, box = detection.category_id, detection.bbox
        excused = any(category == c and _share_inside(box, crowd) >= FOUND_IOU for c, crowd in crowds)
        predicted.append(drawn(category, box, score=detection.score, wrong=not ok and not excused))
    annotated = [drawn(category, box, crowd=crowd) for category, box, crowd in truth]
    place_labels(annotated, [box for _, box, _ in truth], width, height)
    place_labels(predicted, [detection.bbox for detection in shown], width, height)
    return Pair(
        str(coco.file_names[index]),
        width,
        height,
        data_uri(folder / str(coco.file_names[index])),
        annotated,
        predicted,
        found,
        len(objects),
        best_score=max((detection.score for detection in detections), default=None),
    )


def match(truth: Sequence[tuple[int, Xywh]], shown: Sequence[Result]) -> tuple[int, list[bool]]:
    """How many objects are found, and which detections are right: by falling score, each object once."""
    free = list(truth)
    right = []
    for detection in shown:
        candidates = [
            o for o in free if o[0] == detection.category_id and iou(o[1], detection.bbox) >= FOUND_IOU
        ]
        right.append(bool(candidates))
        if candidates:
            free.remove(max(candidates, key=lambda o: iou(o[1], detection.bbox)))
    return len(truth) - len(free), right


def iou(a: Xywh, b: Xywh) -> float:
    """Intersection over union, 0..1."""
    common = _overlap(a, b)
    return common / (a[2] * a[3] + b[2] * b[3] - common) if common else 0.0


def _share_inside(a: Xywh, b: Xywh) -> float:
    """Share of `a` that lies in `b`."""
    return _overlap(a, b) / (a[2] * a[3]) if a[2] * a[3] else 0.0


def _overlap(a: Xywh, b: Xywh) -> float:
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return max(0.0, width) * max(0.0, height)


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
            if fits and not any(_overlap(label, other) for other in taken):
                taken.append(label)
                box.label, box.corner = text, f"{corner} right" if right else corner
                break


def data_uri(path: Path) -> str:
    """The image as a JPEG data URI, its long side at most LONGEST_SIDE pixels."""
    image = decode(path)
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "jpeg", quality=JPEG_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
