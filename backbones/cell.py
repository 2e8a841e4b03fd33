"""One cell as a module, wired as the genotype says.

`fused.FusedCell` and `profile` read the same wiring for inference and for costs; tests hold them against it.
"""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from backbones.genotype import Block, Cell
from backbones.layers import Activated, FactorizedReduction, Layers, Pool
from backbones.operations import OPERATIONS


@dataclass(frozen=True)
class MapShape:
    """What a cell must know of an input without seeing it: channels, and pixels of the image per step."""

    channels: int
    stride: int


class State:
    """A hidden state: a map, and what several readers want of it, computed on first use and once.

    relu: the map's ReLU where it is at hand; the map itself where nobody reads it as it was before.
    """

    def __init__(self, raw: Tensor, relu: Tensor | None = None) -> None:
        self.raw, self._relu = raw, relu
        self._pooled: dict[tuple[str, int, int], Tensor] = {}

    @property
    def relu(self) -> Tensor:
        if self._relu is None:
            self._relu = F.relu(self.raw)
        return self._relu

    def read_by(self, layers: nn.Module) -> Tensor:
        """The map, or its ReLU where the layers are `Activated`."""
        return self.relu if isinstance(layers, Activated) else self.raw

    def through(self, layers: nn.Module) -> Tensor:
        """`layers` applied to what they read."""
        if not isinstance(layers, Pool):
            return layers(self.read_by(layers))
        key = (layers.kind, layers.kernel, layers.stride)
        if key not in self._pooled:
            self._pooled[key] = layers(self.raw)
        return self._pooled[key]


def drop_path_keep(cell: int, num_cells: int, progress: float, final_keep: float) -> float:
    """Probability that a path survives, falling with depth and with training time.

    cell: 0..num_cells - 1 in order of execution, stem cells counted. progress: steps done / steps planned, in
    [0, 1]. Raises ValueError unless 0 < final_keep <= 1. Source: TF-slim `nasnet_utils.py`, version v3 (depth
    and time); the paper's text states the ramp in time only.
    """
    if not 0.0 < final_keep <= 1.0:
        raise ValueError(f"drop_path_keep = {final_keep}, must be in (0, 1]")
    at_depth = 1.0 - (cell + 1) / num_cells * (1.0 - final_keep)
    return 1.0 - min(1.0, max(0.0, progress)) * (1.0 - at_depth)


class DropPath(nn.Module):
    """Zeroes whole examples with probability `1 - keep` in training, and scales the others by `1 / keep`.

    active: False until `keep` falls below 1; a schedule that will get there may set it before.
    """

    chance: Tensor

    def __init__(self) -> None:
        super().__init__()
        # A tensor, since a compiled step would be compiled anew for each other number.
        self.register_buffer("chance", torch.ones(()), persistent=False)
        self._keep, self.active = 1.0, False

    @property
    def keep(self) -> float:
        return self._keep

    @keep.setter
    def keep(self, keep: float) -> None:
        self._keep, self.active = keep, self.active or keep < 1.0
        self.chance.fill_(keep)

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and self.active):
            return x
        chance = self.chance.to(x.dtype)
        return x * (torch.bernoulli(chance.expand(x.shape[0], 1, 1, 1)) / chance)


class BlockModule(nn.Module):
    """A block: `[N, C, H, W]` of two states to `[N, channels, H', W']`.

    `concat` doubles the channels, so ReLU - 1x1 - norm brings them back (docs/nasnet.md, section 1.2).
    """

    def __init__(
        self, block: Block, layers: Layers, inputs: tuple[int, int], channels: int, strides: list[int]
    ) -> None:
        super().__init__()
        left, right = OPERATIONS[block.left_op], OPERATIONS[block.right_op]
        self.left = left.build(layers, inputs[0], channels, strides[0])
        self.right = right.build(layers, inputs[1], channels, strides[1])
        # Identity is never dropped, not even where it carries a 1x1 convolution (TF-slim).
        self.left_drop = nn.Identity() if left.kind == "identity" else DropPath()
        self.right_drop = nn.Identity() if right.kind == "identity" else DropPath()
        self.project = layers.conv_norm(2 * channels, channels) if block.combine == "concat" else None

    def forward(self, left: State, right: State) -> Tensor:
        a, b = self.left_drop(left.through(self.left)), self.right_drop(right.through(self.right))
        if self.project is None:
            return a + b
        return self.project(F.relu(torch.cat([a, b], dim=1)))


class CellModule(nn.Module):
    """`[N, C, H, W]` of the previous cell and the one before it to `[N, len(concat) * channels, H', W']`.

    shape, prev_shape: of h_i and h_{i-1}; None for h_{i-1} means that there is no such cell and the raw h_i
    stands in (docs/nasnet.md, T6). reduction: halves H and W. Only what the output depends on is built.
    checkpoint: keep the inputs alone for the backward pass, and compute the rest again.
    What a cell is given and what it returns stays as it is, so hooks may keep it.
    Source of the fitting rules: TF-slim `nasnet_utils.py`.
    """

    def __init__(
        self,
        cell: Cell,
        layers: Layers,
        shape: MapShape,
        prev_shape: MapShape | None,
        channels: int,
        reduction: bool,
    ) -> None:
        super().__init__()
        self.checkpoint = False
        self.cell, self.channels, self.stride = cell, channels, 2 if reduction else 1
        self.first = prev_shape is None
        live = cell.live_states()
        prev_channels, fit_prev = _fit_prev(layers, shape, prev_shape, channels)
        self.fit = layers.conv_norm(shape.channels, channels) if 0 in live else nn.Identity()
        self.fit_prev = fit_prev if 1 in live else nn.Identity()
        state_channels = [channels, prev_channels] + [channels] * len(cell.blocks)
        self.blocks = nn.ModuleDict(
            {
                str(b): BlockModule(
                    block,
                    layers,
                    (state_channels[block.left], state_channels[block.right]),
                    channels,
                    [self.stride if state < 2 else 1 for state in (block.left, block.right)],
                )
                for b, block in enumerate(cell.blocks)
                if 2 + b in live
            }
        )
        # A raw or unreduced input in the concat list is brought to the shape of the blocks, without a ReLU.
        self.fit_output = nn.ModuleDict(
            {
                str(state): FactorizedReduction(layers, state_channels[state], channels)
                if reduction
                else nn.Sequential(layers.conv(state_channels[state], channels), layers.norm(channels))
                for state in cell.concat
                if state < 2 and (reduction or state_channels[state] != channels)
            }
        )

    def forward(self, h: Tensor | None, h_prev: Tensor | None, activate: bool = False) -> Tensor:
        """h, h_prev: the maps as `fit` and `fit_prev` read them, after the ReLU where those are `Activated`.

        One that no state depends on may be None. activate: return the output's ReLU, where nothing else of it
        is read, in its place.
        """
        if self.checkpoint and self.training and torch.is_grad_enabled():
            output = checkpoint(
                self._combine,
                h,
                h_prev,
                use_reentrant=False,
                context_fn=lambda: (nullcontext(), FixedStatistics(self)),
            )
        else:
            output = self._combine(h, h_prev)
        return output.relu_() if activate else output

    def _combine(self, h: Tensor | None, h_prev: Tensor | None) -> Tensor:
        states = input_states(self, h, h_prev)
        for b, block in enumerate(self.cell.blocks):
            if str(b) in self.blocks:
                states[2 + b] = State(self.blocks[str(b)](states[block.left], states[block.right]))
        for name, module in self.fit_output.items():
            states[int(name)] = State(module(states[int(name)].raw))
        return torch.cat([states[state].raw for state in self.cell.concat], dim=1)


def input_states(cell: Any, h: Tensor | None, h_prev: Tensor | None) -> dict[int, State]:
    """States 0 and 1 of a `CellModule` or a `FusedCell` from what its `forward` is given."""
    states = {}
    if h is not None:
        states[0] = State(cell.fit(h))
    if h_prev is not None:
        # The first cell's h_{i-1} is h_i as it was before the ReLU that `fit` reads.
        states[1] = State(cell.fit_prev(h_prev), h if cell.first else None)
    return states


class FixedStatistics:
    """Within, batch norm in training normalises as ever and leaves its running statistics as they are.

    It still reads and writes them, with no effect: the recomputation must save what the first pass saved.
    It can be entered again, as a second backward pass does.
    """

    def __init__(self, module: nn.Module) -> None:
        self.norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]

    def __enter__(self) -> None:
        self._kept = [(norm.momentum, norm.num_batches_tracked) for norm in self.norms]
        for norm in self.norms:
            norm.momentum = 0.0
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked = torch.zeros_like(norm.num_batches_tracked)

    def __exit__(self, *_: object) -> None:
        for norm, (momentum, batches) in zip(self.norms, self._kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, batches


def _fit_prev(
    layers: Layers, shape: MapShape, prev_shape: MapShape | None, channels: int
) -> tuple[int, nn.Module]:
    if prev_shape is None:
        return shape.channels, nn.Identity()
    if prev_shape.stride != shape.stride:
        return channels, Activated(FactorizedReduction(layers, prev_shape.channels, channels))
    return channels, layers.fit(prev_shape.channels, channels)
