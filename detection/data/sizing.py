"""The sizes at which a detector looks at images: `ShortestEdge`, `Fixed` or `ScaleJitter`.

Each variant has `place(stored, flipped, words)`, how an image of `stored` (H, W) comes before the detector,
`least(stored)`, the smallest height and width in pixels that it may get, and `largest()`, those of the
largest batch. words: of `augment.draw_words`, one draw
each.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backbones.ranges import KEY, ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Words = Sequence[int] | NDArray[np.uint64]

FLIP, SIZE, SCALE, TOP, LEFT, COLORS = 0, 1, 2, 3, 4, 5
"""Places of the draws among the words; the colours' are 8, four factors and their order."""
SAMPLING = COLORS + 8
"""What the anchors and proposals for the losses are drawn from."""


SIDES = (32, 10_000)
"""Least and most pixels that a side of a picture may have where a detector looks at it."""


def check_side(key: str, pixels: int) -> None:
    """Raises ConfigError unless a detector can look at pictures with a side of so many pixels."""
    if not SIDES[0] <= pixels <= SIDES[1]:
        raise ConfigError(f"{KEY}{key} = {pixels}, must be in {SIDES[0]}..{SIDES[1]} pixels")


@dataclass(frozen=True)
class Placement:
    """How a stored picture comes before the detector: mirrored, scaled, then seen through a window.

    size: height and width of the whole scaled picture, pixels. window: height and width of what is seen.
    None: all. corner: top and left of the window in the scaled picture; what lies beyond that is padded.
    `augment.placed_image` and `augment.placed_boxes` apply it."""

    size: tuple[int, int]
    flipped: bool = False
    window: tuple[int, int] | None = None
    corner: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class ShortestEdge:
    """Keeps the shape: short side one of `short_sides`, drawn, long side at most `max_size` pixels.

    Source: Detectron2's `ResizeShortestEdge`."""

    short_sides: tuple[int, ...]
    max_size: int

    def place(self, stored: tuple[int, int], flipped: bool = False, words: "Words" = ()) -> Placement:
        drawn = int(words[SIZE]) % len(self.short_sides) if len(self.short_sides) > 1 else 0
        return Placement(resized_size(*stored, self.short_sides[drawn], self.max_size), flipped)

    def least(self, stored: tuple[int, int]) -> tuple[int, int]:
        return resized_size(*stored, min(self.short_sides), self.max_size)

    def largest(self) -> tuple[int, int]:
        """A wide and a tall image in one batch are padded to a square of the long side's bound."""
        return self.max_size, self.max_size


@dataclass(frozen=True)
class Fixed:
    """Both sides `side` pixels, whatever the picture's shape."""

    side: int

    def place(self, stored: tuple[int, int], flipped: bool = False, words: "Words" = ()) -> Placement:
        return Placement((self.side, self.side), flipped)

    def least(self, stored: tuple[int, int]) -> tuple[int, int]:
        return self.largest()

    def largest(self) -> tuple[int, int]:
        return self.side, self.side


@dataclass(frozen=True)
class ScaleJitter:
    """Large-scale jitter: a picture is scaled by `low` to `high` times what fits a square, which is cut out.

    low, high: 0.1 to 2.0 in Ghiasi et al. 2021 (2012.07177, section 3). side: of the square, pixels.
    Source: Detectron2's `ResizeScale` and `FixedSizeCrop` (`data/transforms/augmentation_impl.py`), but top
    and left are drawn apart, where there they share one number."""

    low: float
    high: float
    side: int

    def place(self, stored: tuple[int, int], flipped: bool, words: "Words") -> Placement:
        from runtime.random import unit  # needs NumPy, for which a configuration need not wait

        scale, down, across = (unit(int(words[place])) for place in (SCALE, TOP, LEFT))
        height, width = self.size(stored, self.low + (self.high - self.low) * scale)
        corner = (
            round(max(0, height - self.side) * down),
            round(max(0, width - self.side) * across),
        )
        return Placement((height, width), flipped, self.largest(), corner)

    def size(self, stored: tuple[int, int], scale: float) -> tuple[int, int]:
        """Height and width of the largest picture of this shape in a square of `scale` times the side."""
        factor = self.side * scale / max(stored)
        height, width = (max(1, round(side * factor)) for side in stored)
        return height, width

    def least(self, stored: tuple[int, int]) -> tuple[int, int]:
        return self.largest()

    def largest(self) -> tuple[int, int]:
        return self.side, self.side


EvaluationSize = ShortestEdge | Fixed
TrainingSize = ShortestEdge | Fixed | ScaleJitter


@dataclass(frozen=True)
class SizeRecord:
    """An `EvaluationSize` as `detector.safetensors` holds it; keep_aspect False: `Fixed(min_size)`."""

    min_size: int
    max_size: int
    keep_aspect: bool = True

    def __post_init__(self) -> None:
        for key in ("min_size", "max_size"):
            check_side(key, getattr(self, key))

    @classmethod
    def of(cls, size: EvaluationSize) -> "SizeRecord":
        if isinstance(size, Fixed):
            return cls(size.side, size.side, keep_aspect=False)
        return cls(size.short_sides[0], size.max_size)

    @property
    def size(self) -> EvaluationSize:
        return ShortestEdge((self.min_size,), self.max_size) if self.keep_aspect else Fixed(self.min_size)


def resized_size(height: int, width: int, min_size: int, max_size: int) -> tuple[int, int]:
    """(H, W) with the short side `min_size`, or less so that the long side is at most `max_size`; at least 1.

    Source: Detectron2 `ResizeShortestEdge.get_output_shape`, its rounding included."""
    scale = min_size / min(height, width)
    size = (float(min_size), scale * width) if height < width else (scale * height, float(min_size))
    if max(size) > max_size:
        shrink = max_size / max(size)
        size = (size[0] * shrink, size[1] * shrink)
    return max(1, int(size[0] + 0.5)), max(1, int(size[1] + 0.5))
