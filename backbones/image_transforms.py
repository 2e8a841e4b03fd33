"""What stands between a picture and a network, from the preprocessing that travels with its weights.

Letters: N images, C channels, H W pixels.
"""

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from backbones.base import Backbone
from backbones.pictures import as_picture, central_square
from backbones.spec import Preprocessing
from backbones.words import counted

if TYPE_CHECKING:
    from torchvision.transforms import v2  # takes a second to import, so not before it is used


def transforms(
    net: Backbone, train: bool = False, *, area_min: float = 0.05, flip: bool = True
) -> "v2.Compose":
    """What turns one picture into `[C, H, W]` float32 as `net` was trained to see it, H = W = its size.

    Takes a PIL image of any mode, or `[C', H', W']` RGB or grey, uint8 or float in 0..1. In evaluation the
    central square of `crop` of the shorter side, resized; the tensor is the one that `classification`
    computes from the same file. train: a random part of the picture as `training_crop` says, instead.
    Raises ValueError unless the network reads grey (C = 1) or RGB.
    """
    from torchvision.transforms import v2

    preprocessing = net.preprocessing
    if (channels := len(preprocessing.mean)) not in (1, 3):
        raise ValueError(
            f"the network reads {counted(channels, 'channel')}; pictures have 1 (grey) or 3 (RGB)"
        )
    cut = training_crop(preprocessing, area_min, flip)
    if not train:
        cut = partial(central_square, preprocessing=preprocessing)
    return v2.Compose(
        [
            partial(as_picture, grey=channels == 1),
            cut,
            v2.PILToTensor(),
            partial(normalise, preprocessing=preprocessing),
        ]
    )


def training_crop(preprocessing: Preprocessing, area_min: float = 0.05, flip: bool = True) -> Any:
    """Inception's crop of a PIL image, resized to `size` x `size` pixels; draws from torch's generator.

    area_min: smallest share of the image that it covers, up to all of it, at aspect ratios 3/4..4/3.
    flip: mirror half of them.
    """
    from torchvision.transforms import v2

    crop = v2.RandomResizedCrop(
        preprocessing.size,
        scale=(area_min, 1.0),
        ratio=(3 / 4, 4 / 3),
        interpolation=v2.InterpolationMode(preprocessing.interpolation),
    )
    return v2.Compose([crop, v2.RandomHorizontalFlip()] if flip else [crop])


def normalise(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """uint8 `[..., C, H, W]` as the network's input; float images pass, they are normalised already."""
    if images.dtype != torch.uint8:
        return images
    mean, std = (
        torch.tensor(values, device=images.device) * 255 for values in (preprocessing.mean, preprocessing.std)
    )
    nhwc = images.ndim == 4 and images.is_contiguous(memory_format=torch.channels_last)
    if nhwc and images.device.type == "cpu":
        return _normalise_channels_last(images, mean, std)
    return (images - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)


def _normalise_channels_last(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """The same numbers several times faster: whole lines at a time, each image while it is in the cache."""
    result = torch.empty_like(images, dtype=torch.float32, memory_format=torch.channels_last)
    line = images.shape[3] * images.shape[1]
    mean, std = mean.repeat(images.shape[3]), std.repeat(images.shape[3])
    lines = images.permute(0, 2, 3, 1).reshape(len(images), -1, line)
    for source, target in zip(lines, result.permute(0, 2, 3, 1).view(len(images), -1, line), strict=True):
        target.copy_(source).sub_(mean).div_(std)
    return result
