"""Training augmentation of a picture and its boxes, a pure function of (seed, epoch, index).

Each draw is a word of one hash, so a setting that is switched on changes no other's draws.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from runtime.random import counter_hash

FLIP, SIZE, SCALE, TOP, LEFT, COLORS = 0, 1, 2, 3, 4, 5
"""Words of the hash; the colours' are 8, four factors and their order."""
SAMPLING = COLORS + 8
"""What the anchors and proposals for the losses are drawn from."""
WORDS = SAMPLING + 1
PADDING = (128, 128, 128)
"""Beside a picture that is smaller than its window, as in Detectron2."""


@dataclass(frozen=True)
class Placement:
    """How a stored picture comes before the detector: mirrored, scaled, then seen through a window.

    size: height and width of the whole scaled picture, pixels. window: height and width of what is seen;
    None: all. corner: top and left of the window in the scaled picture; what lies beyond that is padded."""

    size: tuple[int, int]
    flipped: bool = False
    window: tuple[int, int] | None = None
    corner: tuple[int, int] = (0, 0)

    def image(self, image: Image.Image) -> Image.Image:
        """An RGB picture by Pillow's antialiased bilinear filter on 8-bit pixels."""
        if self.flipped:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        height, width = self.size
        if self.window is None:
            return image.resize((width, height), Image.Resampling.BILINEAR)
        # Only what is seen is computed: of a picture enlarged to 2048 px and cut to 1024, a quarter.
        (top, left), (rows, columns) = self.corner, self.window
        bottom, right = min(top + rows, height), min(left + columns, width)
        across, down = image.width / width, image.height / height
        seen = image.resize(
            (right - left, bottom - top),
            Image.Resampling.BILINEAR,
            box=(
                left * across,
                top * down,
                min(right * across, image.width),
                min(bottom * down, image.height),
            ),
        )
        canvas = Image.new("RGB", (columns, rows), PADDING)
        canvas.paste(seen)
        return canvas

    def boxes(
        self, boxes: NDArray[np.float32], stored: tuple[int, int]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Boxes `[R, 4]` xyxy cut at the window, and which of the R have an area there. stored: (H, W)."""
        height, width = stored
        if self.flipped:
            boxes = np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1)
        scale = np.array([self.size[1] / width, self.size[0] / height], dtype=np.float32)
        boxes = boxes * np.tile(scale, 2)
        if self.window is not None:
            top, left = self.corner
            limits = np.tile(np.array(self.window[::-1], np.float32), 2)
            boxes = (boxes - np.array([left, top, left, top], np.float32)).clip(0, limits)
        return boxes, np.all(boxes[:, 2:] > boxes[:, :2], axis=1)


def draw_words(seed: int, epoch: int, index: int) -> NDArray[np.uint64]:
    """What every choice for an image is made from."""
    return counter_hash(seed, epoch, index, np.arange(WORDS))


def uniform(words: NDArray[np.uint64]) -> NDArray[np.float64]:
    """In [0, 1), one of each word."""
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


@dataclass(frozen=True)
class ScaleJitter:
    """Large-scale jitter: a picture is scaled by `low` to `high` times what fits a square, which is cut out.

    low, high: 0.1 to 2.0 in Ghiasi et al. 2021 (2012.07177, section 3). side: of the square, pixels.
    Source: Detectron2's `ResizeScale` and `FixedSizeCrop` (`data/transforms/augmentation_impl.py`), but top
    and left are drawn apart, where there they share one number."""

    low: float
    high: float
    side: int

    def place(self, stored: tuple[int, int], flipped: bool, words: NDArray[np.uint64]) -> Placement:
        """stored: (H, W)."""
        scale, down, across = uniform(words[[SCALE, TOP, LEFT]]).tolist()
        height, width = self.size(stored, self.low + (self.high - self.low) * scale)
        corner = (
            round(max(0, height - self.side) * down),
            round(max(0, width - self.side) * across),
        )
        return Placement((height, width), flipped, (self.side, self.side), corner)

    def size(self, stored: tuple[int, int], scale: float) -> tuple[int, int]:
        """Height and width of the largest picture of this shape in a square of `scale` times the side."""
        factor = self.side * scale / max(stored)
        height, width = (max(1, round(side * factor)) for side in stored)
        return height, width


@dataclass(frozen=True)
class ColorJitter:
    """torchvision's `v2.ColorJitter`: factors within 1 ± each, hue within ± hue of a turn, in random order.

    brightness, contrast, saturation: 0..1. hue: 0..0.5."""

    brightness: float
    contrast: float
    saturation: float
    hue: float

    def __post_init__(self) -> None:
        _v2()  # here, so that every worker forked later finds it loaded

    def image(self, image: Image.Image, words: NDArray[np.uint64]) -> Image.Image:
        """image: RGB."""
        brightness, contrast, saturation, hue = (2 * uniform(words[COLORS : COLORS + 4]) - 1).tolist()
        changes = (
            (_v2().adjust_brightness, self.brightness, 1 + self.brightness * brightness),
            (_v2().adjust_contrast, self.contrast, 1 + self.contrast * contrast),
            (_v2().adjust_saturation, self.saturation, 1 + self.saturation * saturation),
            (_v2().adjust_hue, self.hue, self.hue * hue),
        )
        for place in np.argsort(words[COLORS + 4 : COLORS + 8], kind="stable").tolist():
            change, strength, amount = changes[place]
            if strength:
                image = change(image, amount)
        return image


def _v2() -> Any:
    from torchvision.transforms.v2 import functional  # takes a second to import, so not before it is used

    return functional
