"""RoIAlign in Detectron2's semantics, on all cores of a CPU.

torchvision's CPU kernels run in one thread. Channels do not depend on each other, so that each thread takes
some of them, and the numbers are torchvision's to the last bit, forward and backward.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torchvision.ops import roi_align as one_thread

SAMPLES = 0
"""Sampling ratio: as many samples as the box has places."""


def roi_align(feature_map: Tensor, rois: Tensor, size: int, stride: int) -> Tensor:
    """Half-pixel aligned crops with as many samples as the box has places: `[R, C, size, size]` float32.

    feature_map: `[N, C, H, W]`. rois: `[R, 5]`, place of the image in the batch, then its box in pixels.
    Source: Detectron2 `roi_align.py` (`ROIAlignV2`)."""
    feature_map = feature_map.float()  # half precision would round the boxes to several pixels
    in_eager_mode = not torch.compiler.is_compiling()
    if in_eager_mode and feature_map.device.type == "cpu" and torch.get_num_threads() > 1:
        crops: Tensor = _AllCores.apply(feature_map, rois, size, stride)
        return crops
    return one_thread(feature_map, rois, size, 1 / stride, SAMPLES, aligned=True)


def rows(boxes: Sequence[Tensor]) -> Tensor:
    """`[sum R, 5]`, as `roi_align` takes them, of the boxes `[R, 4]` of each image."""
    return torch.cat([F.pad(of_image, (1, 0), value=float(i)) for i, of_image in enumerate(boxes)])


class _AllCores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, feature_map: Tensor, rois: Tensor, size: int, stride: int) -> Tensor:
        ctx.save_for_backward(rois)
        ctx.scale, ctx.shape = 1 / stride, feature_map.shape
        return _by_channels(lambda part: one_thread(part, rois, size, ctx.scale, SAMPLES, True), feature_map)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (rois,) = ctx.saved_tensors
        images, _, height, width = ctx.shape

        def of_part(part: Tensor) -> Tensor:
            grid = (part.shape[2], part.shape[3], images, part.shape[1], height, width)
            return torch.ops.torchvision._roi_align_backward(part, rois, ctx.scale, *grid, SAMPLES, True)

        return _by_channels(of_part, gradient), None, None, None


def _by_channels(function: Callable[[Tensor], Tensor], tensor: Tensor) -> Tensor:
    """`function` of each thread's channels, dimension 1, side by side."""
    threads = torch.get_num_threads()

    def call(part: Tensor) -> Tensor:
        with torch.no_grad():  # a thread starts with its own mode
            return function(part)

    parts: Sequence[Tensor] = tensor.split(-(-tensor.shape[1] // threads), dim=1)
    with ThreadPoolExecutor(threads) as pool:
        return torch.cat(list(pool.map(call, parts)), dim=1)
