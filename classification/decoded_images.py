"""Images decoded one by one when they are needed: class folders and ImageNet."""

import os
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from backbones.pictures import central_square
from backbones.spec import Preprocessing
from classification.crops import training_pixels
from classification.data import ImageSet
from classification.rand_augment import RandAugment
from runtime.loading import Sample
from runtime.random import counter_hash


class DecodedImages:
    """A data set of uint8 images at (epoch, index), for `ResumableLoader` with `collate=stack`.

    Training takes Inception's crop (random area and aspect ratio 3/4..4/3) and flip, drawn from
    (seed, epoch, index); evaluation the central square of `preprocessing.crop` of the short side.
    area_min: smallest share of the image that a training crop covers. flip: mirror half of them.
    color_jitter: change brightness and saturation of training images, see `jittered`. rand_augment: further
    changes of training images, before the jitter.
    """

    def __init__(
        self,
        images: ImageSet,
        preprocessing: Preprocessing,
        *,
        train: bool,
        seed: int = 0,
        area_min: float = 0.05,
        flip: bool = True,
        color_jitter: bool = False,
        rand_augment: RandAugment | None = None,
    ) -> None:
        self._rand_augment = rand_augment
        self.color_jitter = color_jitter
        self.images, self.preprocessing, self.train, self.seed = images, preprocessing, train, seed
        self.area_min, self.flip = area_min, flip

    def __len__(self) -> int:
        return len(self.images)

    def sample_name(self, index: int) -> str:
        """The file, for messages."""
        image = self.images.images[index]
        return os.fsdecode(image) if isinstance(image, bytes) else f"image {index}"

    def __getitem__(self, sample: Sample) -> tuple[NDArray[np.uint8], int]:
        epoch, index = sample
        pixels = self._training(epoch, index) if self.train else self._central(index)
        return pixels, int(self.images.labels[index])

    def _central(self, index: int) -> NDArray[np.uint8]:
        return np.asarray(central_square(self.images.image(index), self.preprocessing))

    def _training(self, epoch: int, index: int) -> NDArray[np.uint8]:
        place = {"seed": self.seed, "epoch": epoch, "index": index}
        pixels = self.images.read(
            index,
            lambda file: training_pixels(file, self.preprocessing, self.area_min, self.flip, **place),
        )
        if self._rand_augment is not None:
            image = self._rand_augment.image(Image.fromarray(pixels), epoch=epoch, index=index)
            pixels = np.asarray(image)
        return jittered(pixels, *draw_jitter(**place)) if self.color_jitter else pixels


def draw_jitter(seed: int, epoch: int, index: int) -> tuple[float, float, bool]:
    """What `jittered` takes, each uniform: shift of +-32/255, factor of 0.5..1.5, either order."""
    bits = int(counter_hash(seed, epoch, index, 1)[0])
    first, second = ((bits >> place & 0xFFFFFF) / 2**24 for place in (0, 24))
    return (2 * first - 1) * 32 / 255, 0.5 + second, bool(bits >> 63)


def jittered(
    pixels: NDArray[np.uint8], shift: float, factor: float, brightness_first: bool
) -> NDArray[np.uint8]:
    """Adds `shift` to the pixels on the scale 0..1 and multiplies their HSV saturation by `factor`.

    pixels: `[H, W, 3]`. Values leave the range 0..1 in between and are cut off at the end.
    Source: docs/nasnet.md, section 5.2, the fast mode of Inception's preprocessing.
    """
    values: NDArray[np.floating] = pixels.astype(np.float32) / 255
    if brightness_first:
        values = _saturated(values + np.float32(shift), factor)
    else:
        values = _saturated(values, factor) + np.float32(shift)
    return np.rint(values.clip(0, 1) * 255).astype(np.uint8)


def _saturated(values: NDArray[np.floating], factor: float) -> NDArray[np.floating]:
    """HSV's V and H stay, S = (V - min) / V becomes min(factor * S, 1), without the way through HSV.

    V - channel is V * S times a share that depends on the hue alone, so it is scaled as S is.
    """
    top, bottom = values.max(axis=-1, keepdims=True), values.min(axis=-1, keepdims=True)
    largest = top / np.maximum(top - bottom, np.float32(1e-6))
    return np.where(top > 0, top - (top - values) * np.minimum(np.float32(factor), largest), values)


def stack(samples: Sequence[tuple[NDArray[np.uint8], int]]) -> tuple[Tensor, Tensor]:
    """Images `[N, 3, H, W]` uint8 in channels_last order and labels `[N]` int64."""
    images, labels = zip(*samples, strict=True)
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2), torch.tensor(labels)
