"""Areas of single boxes as COCO writes them: x, y, width, height in pixels."""

from collections.abc import Sequence


def intersection(a: Sequence[float], b: Sequence[float]) -> float:
    """Area that two boxes share, square pixels."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return max(0.0, width) * max(0.0, height)


def share_inside(a: Sequence[float], b: Sequence[float]) -> float:
    """Share of `a` that lies in `b`, 0..1; 0 where `a` has no area."""
    area = a[2] * a[3]
    return intersection(a, b) / area if area else 0.0


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union, 0..1."""
    common = intersection(a, b)
    return common / (a[2] * a[3] + b[2] * b[3] - common) if common else 0.0
