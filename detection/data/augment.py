"""Training augmentation of a picture and its boxes, a pure function of (seed, epoch, index).

Each draw is a word of one hash, so a setting that is switched on changes no other's draws.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from detection.data.sizing import COLORS, SAMPLING, Placement
from runtime.random import counter_hash, unit

WORDS = SAMPLING + 1
PADDING = (128, 128, 128)
"""Beside a picture that is smaller than its window, as in Detectron2."""


def placed_image(image: Image.Image, placement: Placement) -> Image.Image:
    """An RGB picture by Pillow's antialiased bilinear filter on 8-bit pixels, as Detectron2 resizes."""
    if placement.flipped:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    height, width = placement.size
    if placement.window is None:
        return image.resize((width, height), Image.Resampling.BILINEAR)
    # Only what is seen is computed: of a picture enlarged to 2048 px and cut to 1024, a quarter.
    (top, left), (rows, columns) = placement.corner, placement.window
    bottom, right = min(top + rows, height), min(left + columns, width)
    across, down = image.width / width, image.height / height
    seen = image.resize(
        (right - left, bottom - top),
        Image.Resampling.BILINEAR,
        box=(left * across, top * down, min(right * across, image.width), min(bottom * down, image.height)),
    )
    canvas = Image.new("RGB", (columns, rows), PADDING)
    canvas.paste(seen)
    return canvas


def placed_boxes(
    boxes: NDArray[np.float32], placement: Placement, stored: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Boxes `[R, 4]` xyxy cut at the window, and which of the R have an area there. stored: (H, W)."""
    height, width = stored
    if placement.flipped:
        boxes = np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1)
    scale = np.array([placement.size[1] / width, placement.size[0] / height], dtype=np.float32)
    boxes = boxes * np.tile(scale, 2)
    if placement.window is not None:
        top, left = placement.corner
        limits = np.tile(np.array(placement.window[::-1], np.float32), 2)
        boxes = (boxes - np.array([left, top, left, top], np.float32)).clip(0, limits)
    return boxes, np.all(boxes[:, 2:] > boxes[:, :2], axis=1)


def draw_words(seed: int, epoch: int, index: int) -> NDArray[np.uint64]:
    """What every choice for an image is made from."""
    return counter_hash(seed, epoch, index, np.arange(WORDS))


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
        brightness, contrast, saturation, hue = (2 * unit(words[COLORS : COLORS + 4]) - 1).tolist()
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
