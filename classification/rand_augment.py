"""RandAugment: a few random operations of one strength on each training image.

Letters: M images in the batch, S their side.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from torch import Tensor

from runtime.random import counter_hash

STRONGEST = 30


class RandAugment:
    """1909.13719 with torchvision's operations and strengths (`v2.RandAugment`).

    The operations of an image and the signs of their strengths are bits of a hash of (seed, epoch, index).
    operations: how many follow one another on each image. magnitude: of all of them, 0..30.
    """

    def __init__(self, operations: int, magnitude: int, seed: int) -> None:
        self.operations, self.seed = operations, seed
        self._share = magnitude / STRONGEST
        _v2()  # here, so that every worker forked later finds it loaded

    def draw(self, epoch: int, index: ArrayLike) -> list[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
        """For each operation in turn: its place in OPERATIONS and whether its sign is turned, `[M]` each."""
        draws = []
        for turn in range(self.operations):
            bits = counter_hash(self.seed, epoch, index, 2, turn)
            place = (bits & np.uint64(0xFFFFFFFF)) * np.uint64(len(OPERATIONS)) >> np.uint64(32)
            draws.append((place.astype(np.int64), (bits >> np.uint64(63)).astype(bool)))
        return draws

    def image(self, image: Image.Image, *, epoch: int, index: int) -> Image.Image:
        for place, turned in self.draw(epoch, index):
            image = self._apply(image, place[0], turned[0])
        return image

    def batch(self, pixels: Tensor, *, epoch: int, index: NDArray[np.int64]) -> Tensor:
        """pixels: uint8 `[M, 3, S, S]` of the images at `index`, left as they are.

        Images that drew the same operation are changed together.
        """
        pixels = pixels.clone()
        for places, turned in self.draw(epoch, index):
            kinds = np.stack([places, turned & SIGNED[places]], axis=1)
            for place, sign in np.unique(kinds, axis=0):
                of_kind = torch.from_numpy(np.flatnonzero((kinds == (place, sign)).all(axis=1)))
                of_kind = of_kind.to(pixels.device)
                pixels[of_kind] = self._apply(pixels[of_kind], place, bool(sign))
        return pixels

    def _apply(self, image: Any, place: int, turned: bool) -> Any:
        name = list(OPERATIONS)[place]
        return OPERATIONS[name](image, -self._share if turned and SIGNED[place] else self._share)


def _v2() -> Any:
    from torchvision.transforms.v2 import functional  # takes a second to import, so not before it is used

    return functional


def _affine(image: Any, translate: tuple[int, int] = (0, 0), shear: tuple[float, float] = (0.0, 0.0)) -> Any:
    corner = [0, 0] if any(shear) else None
    shear_degrees = [math.degrees(math.atan(value)) for value in shear]
    return _v2().affine(image, 0.0, list(translate), 1.0, shear_degrees, center=corner)


def _side(image: Any, axis: int) -> int:
    return int(_v2().get_size(image)[axis])


# Of an image, PIL or uint8 [..., 3, H, W], and a strength s in -1..1 to the image. 150 of 331 pixels, 0.3, 30
# degrees, 0.9 and 4 bits are AutoAugment's greatest strengths (1805.09501, table 6).
OPERATIONS: Mapping[str, Callable[[Any, float], Any]] = {
    "identity": lambda image, s: image,
    "shear_x": lambda image, s: _affine(image, shear=(0.3 * s, 0.0)),
    "shear_y": lambda image, s: _affine(image, shear=(0.0, 0.3 * s)),
    "translate_x": lambda image, s: _affine(image, translate=(int(150 / 331 * _side(image, 1) * s), 0)),
    "translate_y": lambda image, s: _affine(image, translate=(0, int(150 / 331 * _side(image, 0) * s))),
    "rotate": lambda image, s: _v2().rotate(image, 30 * s),
    "brightness": lambda image, s: _v2().adjust_brightness(image, 1 + 0.9 * s),
    "color": lambda image, s: _v2().adjust_saturation(image, 1 + 0.9 * s),
    "contrast": lambda image, s: _v2().adjust_contrast(image, 1 + 0.9 * s),
    "sharpness": lambda image, s: _v2().adjust_sharpness(image, 1 + 0.9 * s),
    "posterize": lambda image, s: _v2().posterize(image, 8 - round(4 * s)),
    "solarize": lambda image, s: _v2().solarize(image, 255 * (1 - s)),
    "autocontrast": lambda image, s: _v2().autocontrast(image),
    "equalize": lambda image, s: _v2().equalize(image),
}
SIGNED = np.array([name in list(OPERATIONS)[1:10] for name in OPERATIONS])
"""Whether an operation's strength may be negative, in the order of OPERATIONS."""
