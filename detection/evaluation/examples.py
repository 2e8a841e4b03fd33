"""The validation images that are shown beside their detections: the same ones whatever was found."""

from collections import Counter

import numpy as np

from detection.data.annotations import CocoAnnotations

PREVIEW = "preview.jpg"
"""The sheet of a run's first training images, in its folder."""
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
