"""Training crops chosen from an image file's header, before its pixels are decoded.

So only what the crop needs is decoded: a JPEG file at 1/2, 1/4 or 1/8 of its size where that still has at
least the pixels that the network sees, and colours are converted inside the crop alone.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from backbones.pictures import as_picture
from backbones.spec import Preprocessing
from runtime.random import counter_hash, unit

ATTEMPTS = 10
WIDEST = 4 / 3
REDUCTIONS = (8, 4, 2)  # of libjpeg, beside 1
FAST = ("bilinear", "bicubic")  # PyTorch's methods for uint8
_FIRST_WORD = 16  # of the hash; jitter and RandAugment use those below


@dataclass(frozen=True)
class Crop:
    """A rectangle of whole pixels inside an image, and whether to mirror it afterwards."""

    left: int
    top: int
    width: int
    height: int
    flipped: bool


def draw_crop(
    size: tuple[int, int], area_min: float, flip: bool, *, seed: int, epoch: int, index: int
) -> Crop:
    """Inception's crop, a pure function of its arguments, distributed as torchvision's `RandomResizedCrop`.

    The share of the area is uniform in area_min..1, the logarithm of width / height uniform between those of
    3/4 and 4/3, the place uniform; the first of 10 attempts that fits. Where none does, the largest central
    rectangle of an allowed shape. size: width and height in pixels. flip: mirror half of the crops.
    """
    width, height = size
    words = counter_hash(seed, epoch, index, np.arange(_FIRST_WORD, _FIRST_WORD + 1 + 4 * ATTEMPTS))
    mirror, *draws = unit(words).tolist()
    flipped = flip and mirror < 0.5
    for share, shape, across, down in zip(*(draws[i::4] for i in range(4)), strict=True):
        area = width * height * (area_min + share * (1 - area_min))
        ratio = math.exp((2 * shape - 1) * math.log(WIDEST))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(across * (width - w + 1)), int(down * (height - h + 1))
            return Crop(left, top, w, h, flipped)
    w, h = min(width, round(height * WIDEST)), min(height, round(width * WIDEST))
    return Crop((width - w) // 2, (height - h) // 2, w, h, flipped)


def training_pixels(
    file: Image.Image,
    preprocessing: Preprocessing,
    area_min: float,
    flip: bool,
    *,
    seed: int,
    epoch: int,
    index: int,
) -> NDArray[np.uint8]:
    """The crop that (seed, epoch, index) choose, upright, as RGB `[size, size, 3]`.

    file: just opened, its pixels not read yet; or any image. A crop is chosen in the file's own orientation,
    which is the same as choosing it upright: the distribution does not change under turns and reflections.
    Decoded at 1/s of its size, the crop's borders move to whole pixels there, by s/2 pixels at most.
    """
    crop = draw_crop(file.size, area_min, flip, seed=seed, epoch=epoch, index=index)
    reduction = _reduce(file, crop, preprocessing.size)
    edges = (crop.left, crop.top, crop.left + crop.width, crop.top + crop.height)
    left, top, right, bottom = (round(edge / reduction) for edge in edges)
    picture = as_picture(file.crop((left, top, right, bottom)))
    if preprocessing.interpolation in FAST:
        # The image axis is added first: behind the permutation its stride would hide that order.
        pixels = torch.from_numpy(np.array(picture)).unsqueeze(0).permute(0, 3, 1, 2)
        return _resized(pixels, crop.flipped, preprocessing)
    side = preprocessing.size
    picture = picture.resize((side, side), Image.Resampling[preprocessing.interpolation.upper()])
    return np.array(picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if crop.flipped else picture)


def _reduce(file: Image.Image, crop: Crop, size: int) -> int:
    """Asks libjpeg for the smallest image in which the crop has `size` pixels; returns what came of it."""
    width, height = file.size
    for reduction in REDUCTIONS:
        if min(crop.width, crop.height) >= reduction * size:
            file.draft(None, (width // reduction, height // reduction))  # type: ignore[arg-type]
            return max(1, round(width / file.width))  # 1: no JPEG file
    return 1


def _resized(pixels: Tensor, flipped: bool, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """pixels: `[1, 3, H, W]` uint8 in channels_last order, in which PyTorch computes what Pillow does,
    up to 1 or 2 of 255, five times faster.
    """
    pixels = functional.interpolate(
        pixels,
        (preprocessing.size, preprocessing.size),
        mode=preprocessing.interpolation,
        antialias=True,
    )
    pixels = pixels.flip(3) if flipped else pixels
    return pixels.permute(0, 2, 3, 1).contiguous()[0].numpy()
