"""The 13 operations of the search space. All that is known of one stands in its entry of OPERATIONS.

Every operation maps `[N, C, H, W]` to `[N, channels, ceil(H/stride), ceil(W/stride)]`. Convolutions are
ReLU - convolution - batch norm without bias (1707.07012, section 3.1; TF-slim `nasnet_utils.py`); the paper
names no bottleneck, so there is none. The ReLU in front is the cell's (`layers.Activated`).

Genotypes are read and drawn without torch, so builders import it when they are called.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backbones.tally import Map, Tally

if TYPE_CHECKING:
    from torch import nn

    from backbones.layers import Layers


@dataclass(frozen=True)
class Operation:
    """What an operation is, for all who ask: cells, costs, drawings.

    kind: `identity`, `conv`, `sep` or `pool`, each with a colour in drawings. Drop path spares an `identity`.
        Equal pools of one state run once in a cell; a `pool` that keeps the channels is a `layers.Pool`.
    label: the two lines of its box in a drawing.
    build: makes the module: (layers, in_channels, channels, stride).
    cost: counts what that module costs: (tally, map, channels, stride) to the map that it returns.

    `NASNet.fuse` goes by the layers that `build` made: it folds those it knows and runs others as they are.
    """

    kind: str
    label: tuple[str, str]
    build: Callable[["Layers", int, int, int], "nn.Module"]
    cost: Callable[[Tally, Map, int, int], Map]


def _conv(name: str, kernel: int, dilation: int = 1) -> Operation:
    return Operation(
        "conv",
        (name, f"{kernel}×{kernel}"),
        lambda layers, c_in, channels, stride: layers.conv_norm(c_in, channels, kernel, stride, dilation),
        lambda tally, x, channels, stride: tally.conv_norm(x, channels, kernel, stride),
    )


def _factored_conv(kernel: int) -> Operation:
    """One norm at the end, nothing between the two (docs/nasnet.md, section 1.1)."""

    def build(layers: "Layers", in_channels: int, channels: int, stride: int) -> "nn.Module":
        from backbones.layers import Activated

        return Activated(
            layers.conv(in_channels, channels, (1, kernel), (1, stride)),
            layers.conv(channels, channels, (kernel, 1), (stride, 1)),
            layers.norm(channels),
        )

    def cost(tally: Tally, x: Map, channels: int, stride: int) -> Map:
        x = tally.conv(x, channels, (1, kernel), (1, stride))
        return tally.norm(tally.conv(x, channels, (kernel, 1), (stride, 1)))

    return Operation("conv", (f"1×{kernel},", f"{kernel}×1"), build, cost)


def _separable_conv(kernel: int) -> Operation:
    """Applied twice; the stride and the change of channels belong to the first application."""

    def build(layers: "Layers", in_channels: int, channels: int, stride: int) -> "nn.Module":
        from torch import nn

        from backbones.separable import SeparableConv

        return SeparableConv(
            layers.conv(in_channels, in_channels, kernel, stride, groups=in_channels),
            layers.conv(in_channels, channels),
            layers.norm(channels),
            nn.ReLU(inplace=True),
            layers.conv(channels, channels, kernel, groups=channels),
            layers.conv(channels, channels),
            layers.norm(channels),
        )

    def cost(tally: Tally, x: Map, channels: int, stride: int) -> Map:
        for step in (stride, 1):
            x = tally.conv(x, x.channels, (kernel, kernel), (step, step), groups=x.channels)
            x = tally.conv_norm(x, channels)
        return x

    return Operation("sep", ("sep", f"{kernel}×{kernel}"), build, cost)


def _pool(name: str, kernel: int) -> Operation:
    """name: `avg` or `max`."""

    def build(layers: "Layers", in_channels: int, channels: int, stride: int) -> "nn.Module":
        from torch import nn

        pool = layers.pool(name, kernel, stride)
        if in_channels == channels:
            return pool
        return nn.Sequential(pool, layers.conv(in_channels, channels), layers.norm(channels))

    def cost(tally: Tally, x: Map, channels: int, stride: int) -> Map:
        return tally.fit(tally.pool(x, stride), channels)

    return Operation("pool", (name, f"{kernel}×{kernel}"), build, cost)


OPERATIONS: Mapping[str, Operation] = {
    "identity": Operation("identity", ("identity", ""), lambda layers, *shape: layers.fit(*shape), Tally.fit),
    "conv_1x1": _conv("conv", 1),
    "conv_3x3": _conv("conv", 3),
    "conv_1x3_3x1": _factored_conv(3),
    "conv_1x7_7x1": _factored_conv(7),
    "dil_conv_3x3": _conv("dil", 3, dilation=2),
    "sep_conv_3x3": _separable_conv(3),
    "sep_conv_5x5": _separable_conv(5),
    "sep_conv_7x7": _separable_conv(7),
    "avg_pool_3x3": _pool("avg", 3),
    "max_pool_3x3": _pool("max", 3),
    "max_pool_5x5": _pool("max", 5),
    "max_pool_7x7": _pool("max", 7),
}
"""By the name that a genotype has for it. The order is that of the search's decisions."""
