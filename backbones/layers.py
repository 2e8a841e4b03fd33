"""Layers that the operations and cells are made of: convolutions and pooling padded as in TensorFlow, norms.

No ReLU works in place on a state: states are shared by several operations.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.norm import NARROW, NarrowBatchNorm2d, is_transformed

PRODUCT_UP_TO_PIXELS = 2048
"""Pixels of a batch up to which training multiplies by a 1x1 convolution's weight instead of convolving."""


def is_channels_last_on_cpu(x: Tensor) -> bool:
    """Whether pixels lie one after the other.

    Never while a graph is traced, which would fix the answer, nor under vmap, where PyTorch cannot tell.
    """
    return (
        x.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not is_transformed(x)
        and x.is_contiguous(memory_format=torch.channels_last)
    )


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Rows that TensorFlow's SAME puts before and after an axis of `size`; the odd one comes after."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class SameConv2d(nn.Conv2d):
    """Strided convolution padded as in TensorFlow: on even sizes one row less before than after."""

    def pads(self, x: Tensor) -> tuple[int, int, int, int]:
        """Columns left and right and rows above and below that are added to x, as `F.pad` takes them."""
        rows, columns = (
            same_padding(x.shape[2 + axis], self.dilation[axis] * (self.kernel_size[axis] - 1) + 1, stride)
            for axis, stride in enumerate(self.stride)
        )
        return (*columns, *rows)

    def forward(self, x: Tensor) -> Tensor:
        left, right, top, bottom = pads = self.pads(x)
        padding = (top, left)
        if padding != (bottom, right):  # else the convolution itself pads, without a copy
            x, padding = F.pad(x, pads), (0, 0)
        return F.conv2d(x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)


class PointwiseConv2d(nn.Conv2d):
    """1x1 convolution of every stride-th pixel, taken before the convolution.

    For channels_last maps of even size with 2 to 7 channels, the backward pass of torch 2.14.1's strided 1x1
    convolution on CPU writes beyond its buffers, and the process dies of it. In training, a few pixels are
    multiplied as a matrix, which starts sooner.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.stride != (1, 1):
            x = x[:, :, :: self.stride[0], :: self.stride[1]]
        plain = self.training and self.bias is None and is_channels_last_on_cpu(x)
        # Last, as the question would tie an exported program to batches with the same answer.
        if plain and x.numel() // x.shape[1] <= PRODUCT_UP_TO_PIXELS:
            return F.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1)).permute(0, 3, 1, 2)
        return F.conv2d(x, self.weight, self.bias)


class Pool(nn.Module):
    """Average or max pooling that never counts padding, as TensorFlow's SAME (docs/nasnet.md, T3, T4).

    count_padding: the average divides by the whole kernel, as if zeros were pixels (see `Layers`).
    """

    def __init__(
        self, kind: str, kernel: int, stride: int, padding: str, count_padding: bool = False
    ) -> None:
        super().__init__()
        self.kind, self.kernel, self.stride, self.padding = kind, kernel, stride, padding
        self.count_padding = count_padding

    def forward(self, x: Tensor) -> Tensor:
        same = self.padding == "same"
        pads = [
            same_padding(size, self.kernel, self.stride) if same else (self.kernel // 2,) * 2
            for size in x.shape[2:]
        ]
        before = [first for first, _ in pads]
        # ceil_mode lets the last window hang over the end, which is what SAME pads there.
        if self.kind == "max":
            return F.max_pool2d(x, self.kernel, self.stride, before, ceil_mode=same)
        if self.count_padding and same:
            # Padded by hand: where a window hangs over the end, avg_pool2d would not count that part.
            return F.avg_pool2d(F.pad(x, [*pads[1], *pads[0]]), self.kernel, self.stride)
        return F.avg_pool2d(
            x, self.kernel, self.stride, before, ceil_mode=same, count_include_pad=self.count_padding
        )

    def extra_repr(self) -> str:
        counted = ", count_padding=True" if self.count_padding else ""
        return f"{self.kind}, kernel={self.kernel}, stride={self.stride}, padding={self.padding}{counted}"


@dataclass(frozen=True)
class Layers:
    """Makes convolutions and norms in one network's style.

    padding: `same` as in TensorFlow, or `symmetric` (k // 2 on both sides). They differ at stride 2 on even
    sizes only. eps, momentum: batch norm's, in PyTorch's sense. strided_average_counts_padding: average
    pools of stride 2 count the zeros around the map, as timm's do; TensorFlow's and ours do not.
    """

    padding: str
    eps: float
    momentum: float
    strided_average_counts_padding: bool = False

    def conv(
        self,
        in_channels: int,
        channels: int,
        kernel: int | tuple[int, int] = 1,
        stride: int | tuple[int, int] = 1,
        dilation: int = 1,
        groups: int = 1,
    ) -> nn.Conv2d:
        kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
        stride = (stride, stride) if isinstance(stride, int) else stride
        same = self.padding == "same" and any(k > 1 and s > 1 for k, s in zip(kernel, stride, strict=True))
        pads = (dilation * (kernel[0] - 1) // 2, dilation * (kernel[1] - 1) // 2)
        kind = SameConv2d if same else PointwiseConv2d if kernel == (1, 1) else nn.Conv2d
        return kind(
            in_channels,
            channels,
            kernel,
            stride,
            padding=(0, 0) if same else pads,
            dilation=dilation,
            groups=groups,
            bias=False,
        )

    def norm(self, channels: int) -> nn.BatchNorm2d:
        kind = NarrowBatchNorm2d if channels < NARROW else nn.BatchNorm2d
        return kind(channels, self.eps, self.momentum)

    def pool(self, kind: str, kernel: int, stride: int) -> Pool:
        """kind: `avg` or `max`."""
        counts = stride > 1 and self.strided_average_counts_padding
        return Pool(kind, kernel, stride, self.padding, counts)

    def fit(self, in_channels: int, channels: int, stride: int = 1) -> nn.Module:
        """A 1x1 convolution with its norm, or nothing where the map has that shape already."""
        if stride == 1 and in_channels == channels:
            return nn.Identity()
        return self.conv_norm(in_channels, channels, stride=stride)

    def conv_norm(
        self, in_channels: int, channels: int, kernel: int = 1, stride: int = 1, dilation: int = 1
    ) -> "Activated":
        return Activated(self.conv(in_channels, channels, kernel, stride, dilation), self.norm(channels))


class Activated(nn.Sequential):
    """Layers that come after a ReLU. It is not among them: the cell computes it once for all its readers."""


class FactorizedReduction(nn.Module):
    """Halves H and W without skipping pixels: two strided 1x1 paths, the second shifted by one, one norm.

    Zeros enter at the bottom and right of the second path. No ReLU: the caller decides.
    Source: TF-slim `nasnet_utils.py`; the single norm matters for converted weights (docs/nasnet.md, T8).
    """

    def __init__(self, layers: Layers, in_channels: int, channels: int) -> None:
        super().__init__()
        self.path = layers.conv(in_channels, channels // 2, stride=2)
        self.shifted_path = layers.conv(in_channels, channels - channels // 2)
        self.norm = layers.norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        shifted = F.pad(x[:, :, 1::2, 1::2], (0, width % 2, 0, height % 2))
        return self.norm(torch.cat([self.path(x), self.shifted_path(shifted)], dim=1))
