"""The 13 operations of the search space as modules.

Every operation maps `[N, C, H, W]` to `[N, channels, ceil(H/stride), ceil(W/stride)]`. Convolutions are
ReLU - convolution - batch norm without bias (1707.07012, section 3.1; TF-slim `nasnet_utils.py`); the paper
names no bottleneck, so there is none. The ReLU in front is the cell's (`layers.Activated`).
"""

from collections.abc import Callable, Mapping
from functools import partial

from torch import nn

from backbones.layers import Activated, Layers, Pool
from backbones.separable import SeparableConv


def _identity(layers: Layers, in_channels: int, channels: int, stride: int):
    if stride == 1 and in_channels == channels:
        return nn.Identity()
    return layers.conv_norm(in_channels, channels, stride=stride)


def _conv(layers: Layers, in_channels: int, channels: int, stride: int, *, kernel: int, dilation: int = 1):
    return layers.conv_norm(in_channels, channels, kernel, stride, dilation)


def _factored_conv(layers: Layers, in_channels: int, channels: int, stride: int, *, kernel: int):
    # One norm at the end, nothing between the two (docs/nasnet.md, section 1.1).
    return Activated(
        layers.conv(in_channels, channels, (1, kernel), (1, stride)),
        layers.conv(channels, channels, (kernel, 1), (stride, 1)),
        layers.norm(channels),
    )


def _separable_conv(
    layers: Layers, in_channels: int, channels: int, stride: int, *, kernel: int
) -> nn.Module:
    # Applied twice; the stride and the change of channels belong to the first application.
    return SeparableConv(
        layers.conv(in_channels, in_channels, kernel, stride, groups=in_channels),
        layers.conv(in_channels, channels),
        layers.norm(channels),
        nn.ReLU(inplace=True),
        layers.conv(channels, channels, kernel, groups=channels),
        layers.conv(channels, channels),
        layers.norm(channels),
    )


def _pool(
    layers: Layers, in_channels: int, channels: int, stride: int, *, kind: str, kernel: int
) -> nn.Module:
    pool = Pool(kind, kernel, stride, layers.padding, stride > 1 and layers.strided_average_counts_padding)
    if in_channels == channels:
        return pool
    return nn.Sequential(pool, layers.conv(in_channels, channels), layers.norm(channels))


OperationFactory = Callable[[Layers, int, int, int], nn.Module]
"""(layers, in_channels, channels, stride) -> module."""

OPERATIONS: Mapping[str, OperationFactory] = {
    "identity": _identity,
    "conv_1x1": partial(_conv, kernel=1),
    "conv_3x3": partial(_conv, kernel=3),
    "conv_1x3_3x1": partial(_factored_conv, kernel=3),
    "conv_1x7_7x1": partial(_factored_conv, kernel=7),
    "dil_conv_3x3": partial(_conv, kernel=3, dilation=2),
    "sep_conv_3x3": partial(_separable_conv, kernel=3),
    "sep_conv_5x5": partial(_separable_conv, kernel=5),
    "sep_conv_7x7": partial(_separable_conv, kernel=7),
    "avg_pool_3x3": partial(_pool, kind="avg", kernel=3),
    "max_pool_3x3": partial(_pool, kind="max", kernel=3),
    "max_pool_5x5": partial(_pool, kind="max", kernel=5),
    "max_pool_7x7": partial(_pool, kind="max", kernel=7),
}
