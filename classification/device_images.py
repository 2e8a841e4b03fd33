"""A whole small data set on the device, batches cropped and flipped there.

Letters: N images in the set, M in the batch, S side of a stored image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from backbones.pictures import central_square
from backbones.ranges import KEY, ConfigError
from backbones.spec import Preprocessing
from classification.config import ImageDataConfig
from classification.data import ImageSet
from classification.rand_augment import RandAugment
from runtime.loading import Sample
from runtime.random import counter_hash


class DeviceImages:
    """uint8 pixels, zero-padded once; a training batch is one gather, so no image is touched one by one.

    The crop's corner and the flip of a sample are bits of `counter_hash(seed, epoch, index)`: batches depend
    neither on each other nor on any generator.

    images: `[N, 3, S, S]` uint8. labels: `[N]` int64.
    pixels: what is kept of `images`, `[N, S + 2p, S + 2p, 3]` uint8 with p = crop_padding.
    size: side of the images in a batch, resized bilinearly where it is not S; None: S.
    mean, std: per channel on the scale 0..1. crop_padding: pixels at each border. cutout: side in pixels of
    the square that is set to the mean in each training image (1708.04552: its centre is anywhere, so it may
    stick out); 0: none. rand_augment: further changes of each training image, before all others but the crop.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        size: int | None = None,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.5, 0.5, 0.5),
        crop_padding: int = 4,
        flip: bool = True,
        cutout: int = 0,
        rand_augment: RandAugment | None = None,
    ) -> None:
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images: {images.dtype} {list(images.shape)}, expected uint8 [N, 3, S, S]")
        self.stored_size = images.shape[-1]
        self.size = size or self.stored_size
        self.labels = labels
        self.crop_padding, self.flip, self.cutout = crop_padding, flip, cutout
        self._rand_augment = rand_augment
        self.pixels = functional.pad(images, (crop_padding,) * 4).permute(0, 2, 3, 1).contiguous()
        self._scale = torch.tensor([1 / (255 * s) for s in std], device=images.device).view(1, 3, 1, 1)
        self._shift = torch.tensor([m / s for m, s in zip(mean, std, strict=True)], device=images.device)
        self._shift = self._shift.view(1, 3, 1, 1)

    @classmethod
    def from_images(
        cls,
        images: ImageSet,
        indices: Sequence[int] | NDArray[np.int64] | None,
        device: torch.device | str,
        *,
        fit: int | None = None,
        **options: Any,
    ) -> "DeviceImages":
        """Copies the images at `indices` (None: all) to `device`; `options` are the constructor's.

        fit: side in pixels to which the central square of each image is resized first; None: they are
        squares of one size, and ValueError is raised for the first that is not.
        """
        chosen = images if indices is None else images.subset(indices)

        def load(index: int) -> Image.Image:
            image = chosen.image(index)
            return image if fit is None else central_square(image, Preprocessing(fit, crop=1.0))

        first = np.asarray(load(0))
        pixels = np.empty((len(chosen), *first.shape), np.uint8)
        for i in range(len(chosen)):
            image = load(i)
            if image.size != (first.shape[0], first.shape[0]):
                raise ConfigError(
                    f"{chosen.source}: image {i} has {image.width} x {image.height} pixels, the first one "
                    f"{first.shape[1]} x {first.shape[0]}; resident images must be squares of one size, "
                    f"set {KEY}data.resident=false"
                )
            pixels[i] = np.asarray(image)
        tensor = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        return cls(tensor.to(device), torch.from_numpy(chosen.labels).to(device), **options)

    @classmethod
    def from_config(
        cls,
        images: ImageSet,
        config: ImageDataConfig,
        size: int,
        device: torch.device | str,
        indices: Sequence[int] | NDArray[np.int64] | None = None,
        cutout: int = 0,
        rand_augment: RandAugment | None = None,
    ) -> "DeviceImages":
        """`from_images` with the options of the `data` group; images of a set not resident are fitted."""
        return cls.from_images(
            images,
            indices,
            device,
            fit=None if config.is_resident else size,
            size=size,
            mean=config.mean,
            std=config.std,
            crop_padding=config.crop_padding,
            flip=config.flip,
            cutout=cutout,
            rand_augment=rand_augment,
        )

    @classmethod
    def from_padded(cls, pixels: Tensor, labels: Tensor, **options: Any) -> "DeviceImages":
        """Takes `pixels` of another instance as they are, without a copy; `options` are the constructor's."""
        padding = options["crop_padding"]
        none = pixels[:0, padding : -padding or None, padding : -padding or None].permute(0, 3, 1, 2)
        images = cls(none, labels, **options)
        images.pixels = pixels
        return images

    def __len__(self) -> int:
        return len(self.labels)

    def batch(
        self, indices: Sequence[int] | NDArray[np.int64], *, epoch: int, seed: int, train: bool
    ) -> tuple[Tensor, Tensor]:
        """Images `[M, 3, size, size]` float32 in channels_last order, normalised, and labels `[M]` int64.

        train: crop, flip and cut out, as (seed, epoch, index) say; else the whole images.
        """
        index = np.asarray(indices, np.int64)
        side, padding = self.stored_size, self.crop_padding
        rows = columns = np.broadcast_to(np.arange(padding, padding + side), (len(index), side))
        if train:
            top, left, flipped = self.crops(index, epoch=epoch, seed=seed)
            rows = top[:, None] + np.arange(side)
            columns = left[:, None] + np.where(flipped[:, None], np.arange(side)[::-1], np.arange(side))
        width = side + 2 * padding
        lines = (index[:, None] * width + rows) * width
        device = self.pixels.device
        # One look-up of whole pixels (3 bytes) is faster than indexing by (image, row, column).
        place = torch.from_numpy((lines[:, :, None] + columns[:, None, :]).reshape(-1)).to(device)
        pixels = self.pixels.view(-1, 3).index_select(0, place).view(len(index), side, side, 3)
        pixels = pixels.permute(0, 3, 1, 2)
        if train and self._rand_augment is not None:
            pixels = self._rand_augment.batch(pixels, epoch=epoch, index=index)
        images = pixels.float()
        if self.size != side:
            shrinking = self.size < side
            images = functional.interpolate(images, self.size, mode="bilinear", antialias=shrinking)
        images = images.mul_(self._scale).sub_(self._shift)
        if train and self.cutout:
            images.masked_fill_(self._holes(index, epoch=epoch, seed=seed), 0)
        return images, self.labels[torch.from_numpy(index).to(device)]

    def crops(
        self, index: NDArray[np.int64], *, epoch: int, seed: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        """Top and left corner in the padded image (0..2 * padding) and whether to mirror, `[M]` each."""
        bits = counter_hash(seed, epoch, index)
        top = _below(bits, 2 * self.crop_padding + 1)
        left = _below(bits >> np.uint64(16), 2 * self.crop_padding + 1)
        return top, left, (bits >> np.uint64(63)).astype(bool) & self.flip

    def _holes(self, index: NDArray[np.int64], *, epoch: int, seed: int) -> Tensor:
        """True where training images are cut out, `[M, 1, size, size]`."""
        bits = counter_hash(seed, epoch, index, 1)
        first = torch.from_numpy(
            np.stack([_below(bits, self.size), _below(bits >> np.uint64(16), self.size)])
        )
        first = first.to(self.pixels.device)[..., None] - self.cutout // 2
        place = torch.arange(self.size, device=self.pixels.device)
        inside = (place >= first) & (place < first + self.cutout)
        return (inside[0][:, :, None] & inside[1][:, None, :])[:, None]


def _below(bits: NDArray[np.uint64], limit: int) -> NDArray[np.int64]:
    """Whole numbers in 0..limit-1 from the lowest 16 bits; limit far below 65,536."""
    return ((bits & np.uint64(0xFFFF)) * np.uint64(limit) >> np.uint64(16)).astype(np.int64)


@dataclass(frozen=True)
class DeviceBatches:
    """`DeviceImages` as a data set for `ResumableLoader`: whole batches at (epoch, index)."""

    images: DeviceImages
    seed: int
    train: bool

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
        """All samples must be of one epoch, as a loader's are."""
        indices = [index for _, index in samples]
        return self.images.batch(indices, epoch=samples[0][0], seed=self.seed, train=self.train)
