"""Cells for inference, of the operations in `fused_operations.py`. `NASNet.fuse` builds them.

The functions of `cell.CellModule` in evaluation mode on the same maps, `[N, C, H, W]` in channels_last.
The 1x1 convolution at the end of an operation is left to the block, which adds its product straight into its
channels of the cell's output: no addition and no concatenation of whole maps. Figures: docs/performance.md.
Letters as in `fused_operations.py`.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from backbones import fused_operations as ops
from backbones.cell import BlockModule, CellModule, State, input_states
from backbones.genotype import Block
from backbones.layers import Activated, FactorizedReduction
from backbones.separable import SeparableConv

MERGE_UP_TO_ROWS = 1600
"""M up to which depthwise convolutions take longer to start than to compute."""


class FusedBlock(nn.Module):
    """The two operations of a block, and the projection of a `concat`.

    bias: `[C]`, what the output holds before any term is added. zeros: `[C]`, in the network's precision.
    """

    def __init__(self, module: BlockModule, block: Block, zeros: Tensor) -> None:
        super().__init__()
        self.inputs = (block.left, block.right)
        self.operations = cast(
            Iterable[ops.Plain | ops.Separable],
            nn.ModuleList(
                ops.Separable(layers) if isinstance(layers, SeparableConv) else ops.Plain(layers)
                for layers in (module.left, module.right)
            ),
        )
        biases = [zeros if operation.bias is None else operation.bias for operation in self.operations]
        self.project: ops.Pointwise | None = None
        if module.project is not None:
            self.project = _pointwise(module.project)
            self.pair_bias = nn.Parameter(torch.cat(biases))
        self.bias = nn.Parameter(biases[0] + biases[1] if self.project is None else self.project.bias)

    def write(self, terms: Sequence[ops.Term], target: Tensor) -> None:
        """target: `[M, C]`, holding `bias`."""
        if self.project is not None:
            pair = self.pair_bias.expand(len(target), -1).contiguous()
            for term, half in zip(terms, pair.chunk(2, dim=1), strict=True):
                ops.add_terms([term], half)
            terms = [ops.Term(pair.relu_(), self.project.weight)]
        ops.add_terms(terms, target)


class FusedCell(nn.Module):
    """What a `CellModule` computes in evaluation mode; maps must be in channels_last.

    like: any weight of the network, for its precision and device; a cell of pools alone has none.
    """

    def __init__(self, module: CellModule, like: Tensor) -> None:
        super().__init__()
        self.cell, self.stride, self.first = module.cell, module.stride, module.first
        self.fit, self.fit_prev = _fused_fit(module.fit), _fused_fit(module.fit_prev)
        self.fit_output = nn.ModuleDict(
            {
                name: ops.Reduction(layers) if isinstance(layers, FactorizedReduction) else _pointwise(layers)
                for name, layers in module.fit_output.items()
            }
        )
        zeros = like.new_zeros(module.channels)
        blocks = cast(Mapping[str, BlockModule], module.blocks)
        self.blocks = cast(
            Mapping[str, FusedBlock],
            nn.ModuleDict(
                {b: FusedBlock(block, self.cell.blocks[int(b)], zeros) for b, block in blocks.items()}
            ),
        )
        self.inputs = [state for state in self.cell.concat if state < 2]
        self.steps = tuple(
            (2 + int(b), block, tuple(zip(block.operations, block.inputs, strict=True)))
            for b, block in self.blocks.items()
        )
        self.read_later = {state for block in self.blocks.values() for state in block.inputs}
        alike: dict[object, list[tuple[ops.Separable, int]]] = defaultdict(list)
        for block in self.blocks.values():
            for operation, state in zip(block.operations, block.inputs, strict=True):
                if isinstance(operation, ops.Separable) and state < 2:
                    kind = (operation.depthwise.kernel_size, operation.depthwise.stride)
                    alike[kind].append((operation, state))
        self.merged = cast(
            Iterable[ops.MergedSeparables],
            nn.ModuleList(ops.MergedSeparables(group) for group in alike.values() if len(group) > 1),
        )
        biases = {2 + int(b): block.bias for b, block in self.blocks.items()}
        self.bias = nn.Parameter(torch.cat([biases.get(state, zeros) for state in self.cell.concat]))

    def forward(self, h: Tensor | None, h_prev: Tensor | None, activate: bool = False) -> Tensor:
        """As `CellModule.forward`."""
        states = input_states(self, h, h_prev)
        n, _, height, width = next(iter(states.values())).raw.shape
        size = (n, -(-height // self.stride), -(-width // self.stride))
        output = ops.filled(self.bias, *size)
        slots = dict(zip(self.cell.concat, ops.rows(output).chunk(len(self.cell.concat), dim=1), strict=True))
        terms: dict[nn.Module, ops.Term] = {}
        if n * height * width <= MERGE_UP_TO_ROWS:
            for group in self.merged:
                terms |= group.terms(states)
        for index, block, operands in self.steps:
            if index not in slots:
                slots[index] = ops.rows(ops.filled(block.bias, *size))
            block.write([terms.get(op) or op.term(states[state]) for op, state in operands], slots[index])
            if index in self.read_later:
                states[index] = State(slots[index].unflatten(0, size).permute(0, 3, 1, 2))
        for state in self.inputs:
            x = states[state].raw
            slots[state].copy_(
                ops.rows(self.fit_output[str(state)](x) if str(state) in self.fit_output else x)
            )
        return output.relu_() if activate else output


def _fused_fit(layers: nn.Module) -> nn.Module:
    """`fit` and `fit_prev` of a cell; they stay `Activated`, so that `State` hands them the ReLU."""
    if not isinstance(layers, Activated):
        return layers
    first = layers[0]
    return Activated(ops.Reduction(first) if isinstance(first, FactorizedReduction) else _pointwise(layers))


def _pointwise(layers: Any) -> ops.Pointwise:
    """layers: a Sequential of a 1x1 convolution and its norm."""
    return ops.Pointwise(*layers)
