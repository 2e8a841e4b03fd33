"""The sizes at which a detector looks at pictures."""

from dataclasses import dataclass


def check_side(key: str, pixels: int) -> None:
    """Raises ValueError unless a detector can look at pictures with a side of so many pixels."""
    if not 32 <= pixels <= 10_000:
        raise ValueError(f"{key} = {pixels}, must be in 32..10000 pixels")


@dataclass(frozen=True)
class InputSize:
    """How large a picture is looked at: short side `min_size`, long side at most `max_size` pixels.

    keep_aspect False: both sides `min_size` pixels, whatever the picture's shape."""

    min_size: int
    max_size: int
    keep_aspect: bool = True

    def __post_init__(self) -> None:
        for key in ("min_size", "max_size"):
            check_side(f"input.{key}", getattr(self, key))


def resized_size(height: int, width: int, min_size: int, max_size: int) -> tuple[int, int]:
    """(H, W) with the short side `min_size`, or less so that the long side is at most `max_size`; at least 1.

    Source: Detectron2 `ResizeShortestEdge.get_output_shape`, its rounding included."""
    scale = min_size / min(height, width)
    size = (float(min_size), scale * width) if height < width else (scale * height, float(min_size))
    if max(size) > max_size:
        shrink = max_size / max(size)
        size = (size[0] * shrink, size[1] * shrink)
    return max(1, int(size[0] + 0.5)), max(1, int(size[1] + 0.5))
