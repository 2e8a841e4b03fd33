"""Cells for inference: batch norm folded, 1x1 convolutions as matrix products over channels-last memory.

The functions of `cell.CellModule` in evaluation mode on the same maps, `[N, C, H, W]` in channels_last.
The 1x1 convolution at the end of an operation is left to the block, which adds its product straight into its
channels of the cell's output: no addition and no concatenation of whole maps. `NASNet.fuse` builds them; the
figures are in docs/performance.md.

Letters: N images, C channels, H W pixels; M = N * H * W rows of a map seen as a matrix; K input channels.
"""

import copy
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from backbones.cell import BlockModule, CellModule, State, input_states
from backbones.genotype import Block
from backbones.layers import Activated, FactorizedReduction
from backbones.separable import SeparableConv

CONVOLVE_FROM_ROWS = 1700
"""M from which a 1x1 convolution beats the matrix product, whose bias is a pass over memory of its own."""

MERGE_UP_TO_ROWS = 1600
"""M up to which depthwise convolutions take longer to start than to compute."""


def rows(x: Tensor) -> Tensor:
    """The `[M, C]` view of a map in channels_last, or a copy where its pixels are not evenly apart."""
    return x.permute(0, 2, 3, 1).flatten(0, 2)


def filled(values: Tensor, n: int, height: int, width: int) -> Tensor:
    """A new `[N, C, H, W]` map in channels_last with `values`, `[C]`, in every pixel."""
    return values.expand(n, height, width, -1).contiguous().permute(0, 3, 1, 2)


def fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight and bias of the convolution that does what both do in evaluation mode.

    norm: batch norm of any kind, `FrozenBatchNorm2d` too. Raises ValueError for one without running
    statistics.
    """
    mean, variance = getattr(norm, "running_mean", None), getattr(norm, "running_var", None)
    if mean is None or variance is None:
        raise ValueError(
            f"fuse folds batch norm with running statistics, which {type(norm).__name__} here does not have"
        )
    weight, bias = fuse_conv_bn_weights(
        convolution.weight, None, mean, variance, norm.eps, norm.weight, norm.bias
    )
    return weight.detach(), bias.detach()


def folded(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    result = copy.deepcopy(convolution)
    weight, bias = fold(convolution, norm)
    result.weight, result.bias = nn.Parameter(weight), nn.Parameter(bias)
    return result


class Pointwise(nn.Module):
    """A 1x1 convolution with its norm, `[N, K, H, W]` to `[N, C, H', W']`."""

    def __init__(self, convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        weight, bias = fold(convolution, norm)
        self.step = convolution.stride
        self.weight = nn.Parameter(weight.flatten(1).t().contiguous())  # [K, C]
        self.bias = nn.Parameter(bias)

    def sampled(self, x: Tensor) -> Tensor:
        return x if self.step == (1, 1) else x[:, :, :: self.step[0], :: self.step[1]]

    def forward(self, x: Tensor) -> Tensor:
        x = self.sampled(x)
        n, _, height, width = x.shape
        if n * height * width >= CONVOLVE_FROM_ROWS:
            return F.conv2d(x, self.weight.t()[:, :, None, None], self.bias)
        product = torch.addmm(self.bias, rows(x), self.weight)
        return product.unflatten(0, (n, height, width)).permute(0, 3, 1, 2)


class Reduction(nn.Module):
    """`layers.FactorizedReduction`, `[N, K, H, W]` to `[N, C, ceil(H/2), ceil(W/2)]`."""

    def __init__(self, reduction: FactorizedReduction) -> None:
        super().__init__()
        paths = torch.cat([reduction.path.weight, reduction.shifted_path.weight])
        both = nn.Conv2d(paths.shape[1], paths.shape[0], 1, bias=False)
        both.weight = nn.Parameter(paths)
        weight, bias = fold(both, reduction.norm)
        self.split = reduction.path.out_channels
        self.weight = nn.Parameter(weight.flatten(1).t().contiguous())
        self.bias = nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        even = x[:, :, ::2, ::2]
        odd = F.pad(x[:, :, 1::2, 1::2], (0, width % 2, 0, height % 2))
        output = filled(self.bias, x.shape[0], *even.shape[2:])
        by_row = rows(output)
        by_row[:, : self.split].addmm_(rows(even), self.weight[:, : self.split])
        by_row[:, self.split :].addmm_(rows(odd), self.weight[:, self.split :])
        return output


class Term(NamedTuple):
    """What an operation adds to its block: `[M, K]` rows, times a `[K, C]` weight where there is one."""

    rows: Tensor
    weight: Tensor | None


def add_terms(terms: Sequence[Term], target: Tensor) -> None:
    """target: `[M, C]`, holding the bias; without a weight among the terms there is none, and it holds 0."""
    if all(term.weight is None for term in terms) and len(terms) == 2:
        torch.add(terms[0].rows, terms[1].rows, out=target)
        return
    for term in terms:
        if term.weight is None:
            target.add_(term.rows)
        else:
            target.addmm_(term.rows, term.weight)


class Plain(nn.Module):
    """Any operation but a separable convolution: layers, then perhaps a last 1x1 convolution.

    The norm of a last convolution is folded. Layers that do not end in a convolution and its norm, or that
    are no plain sequence, run as they are.
    """

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.pointwise: Pointwise | None = None
        self.activated = isinstance(layers, Activated)
        self.before = layers
        if type(layers) not in (nn.Sequential, Activated):
            return
        *before, last, norm = cast(Iterable[Any], layers)
        if not isinstance(last, nn.Conv2d):
            return
        if last.kernel_size == (1, 1):
            self.pointwise = Pointwise(last, norm)
        else:
            before = [*before, folded(last, norm)]
        self.before = before[0] if len(before) == 1 else type(layers)(*before)

    @property
    def bias(self) -> Tensor | None:
        return None if self.pointwise is None else self.pointwise.bias

    def term(self, state: State) -> Term:
        x = self.before(state.relu) if self.activated else state.through(self.before)
        if self.pointwise is None:
            return Term(rows(x), None)
        return Term(rows(self.pointwise.sampled(x)), self.pointwise.weight)


class Separable(nn.Module):
    """Depthwise, 1x1, ReLU, depthwise; the second 1x1 is the block's."""

    depthwise: nn.Conv2d
    depthwise_2: nn.Conv2d

    def __init__(self, layers: Iterable[Any]) -> None:
        super().__init__()
        self.depthwise, first, first_norm, _, self.depthwise_2, second, second_norm = layers
        self.pointwise, self.pointwise_2 = Pointwise(first, first_norm), Pointwise(second, second_norm)

    @property
    def bias(self) -> Tensor:
        return self.pointwise_2.bias

    def term(self, state: State) -> Term:
        x = self.pointwise(self.depthwise(state.relu)).relu_()
        return Term(rows(self.depthwise_2(x)), self.pointwise_2.weight)


class MergedSeparables(nn.Module):
    """Separable convolutions of one kernel and stride over the cell's inputs, their depthwise parts as one.

    members: (operation, the state it reads).
    """

    def __init__(self, members: list[tuple[Separable, int]]) -> None:
        super().__init__()
        operations = [operation for operation, _ in members]
        self.states = [state for _, state in members]
        self.widths = [operation.depthwise.in_channels for operation in operations]
        self.depthwise = _side_by_side([operation.depthwise for operation in operations])
        self.depthwise_2 = _side_by_side([operation.depthwise_2 for operation in operations])
        # A tuple, as these modules belong to the blocks. Their tensors are looked up in each call: loading
        # weights by assignment, for one, replaces them.
        self.members = tuple((op, op.pointwise, op.pointwise_2) for op in operations)

    def terms(self, states: dict[int, State]) -> dict[nn.Module, Term]:
        x = self.depthwise(torch.cat([states[state].relu for state in self.states], dim=1))
        n, _, height, width = x.shape
        parts = rows(x).split_with_sizes(self.widths, dim=1)
        middle = x.new_empty(n * height * width, self.depthwise_2.in_channels)
        slots = middle.chunk(len(parts), dim=1)
        for (_, pointwise, _), part, slot in zip(self.members, parts, slots, strict=True):
            torch.addmm(pointwise.bias, part, pointwise.weight, out=slot)
        activated = middle.relu_().unflatten(0, (n, height, width)).permute(0, 3, 1, 2)
        outputs = rows(self.depthwise_2(activated)).chunk(len(parts), dim=1)
        return {
            operation: Term(output, last.weight)
            for (operation, _, last), output in zip(self.members, outputs, strict=True)
        }


def _side_by_side(convolutions: list[nn.Conv2d]) -> nn.Conv2d:
    """One depthwise convolution over the concatenated channels of several of one kernel and stride."""
    merged = copy.deepcopy(convolutions[0])
    merged.weight = nn.Parameter(torch.cat([convolution.weight for convolution in convolutions]))
    merged.in_channels = merged.out_channels = merged.groups = len(merged.weight)
    return merged


class FusedBlock(nn.Module):
    """The two operations of a block, and the projection of a `concat`.

    bias: `[C]`, what the output holds before any term is added. zeros: `[C]`, in the network's precision.
    """

    def __init__(self, module: BlockModule, block: Block, zeros: Tensor) -> None:
        super().__init__()
        self.inputs = (block.left, block.right)
        self.operations = cast(
            Iterable[Plain | Separable],
            nn.ModuleList(
                Separable(layers) if isinstance(layers, SeparableConv) else Plain(layers)
                for layers in (module.left, module.right)
            ),
        )
        biases = [zeros if operation.bias is None else operation.bias for operation in self.operations]
        self.project: Pointwise | None = None
        if module.project is not None:
            self.project = _pointwise(module.project)
            self.pair_bias = nn.Parameter(torch.cat(biases))
        self.bias = nn.Parameter(biases[0] + biases[1] if self.project is None else self.project.bias)

    def write(self, terms: Sequence[Term], target: Tensor) -> None:
        """target: `[M, C]`, holding `bias`."""
        if self.project is not None:
            pair = self.pair_bias.expand(len(target), -1).contiguous()
            for term, half in zip(terms, pair.chunk(2, dim=1), strict=True):
                add_terms([term], half)
            terms = [Term(pair.relu_(), self.project.weight)]
        add_terms(terms, target)


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
                name: Reduction(layers) if isinstance(layers, FactorizedReduction) else _pointwise(layers)
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
        alike: dict[object, list[tuple[Separable, int]]] = defaultdict(list)
        for block in self.blocks.values():
            for operation, state in zip(block.operations, block.inputs, strict=True):
                if isinstance(operation, Separable) and state < 2:
                    kind = (operation.depthwise.kernel_size, operation.depthwise.stride)
                    alike[kind].append((operation, state))
        self.merged = cast(
            Iterable[MergedSeparables],
            nn.ModuleList(MergedSeparables(group) for group in alike.values() if len(group) > 1),
        )
        biases = {2 + int(b): block.bias for b, block in self.blocks.items()}
        self.bias = nn.Parameter(torch.cat([biases.get(state, zeros) for state in self.cell.concat]))

    def forward(self, h: Tensor | None, h_prev: Tensor | None, activate: bool = False) -> Tensor:
        """As `CellModule.forward`."""
        states = input_states(self, h, h_prev)
        n, _, height, width = next(iter(states.values())).raw.shape
        size = (n, -(-height // self.stride), -(-width // self.stride))
        output = filled(self.bias, *size)
        slots = dict(zip(self.cell.concat, rows(output).chunk(len(self.cell.concat), dim=1), strict=True))
        terms: dict[nn.Module, Term] = {}
        if n * height * width <= MERGE_UP_TO_ROWS:
            for group in self.merged:
                terms |= group.terms(states)
        for index, block, operands in self.steps:
            if index not in slots:
                slots[index] = rows(filled(block.bias, *size))
            block.write([terms.get(op) or op.term(states[state]) for op, state in operands], slots[index])
            if index in self.read_later:
                states[index] = State(slots[index].unflatten(0, size).permute(0, 3, 1, 2))
        for state in self.inputs:
            x = states[state].raw
            slots[state].copy_(rows(self.fit_output[str(state)](x) if str(state) in self.fit_output else x))
        return output.relu_() if activate else output


def _fused_fit(layers: nn.Module) -> nn.Module:
    """`fit` and `fit_prev` of a cell; they stay `Activated`, so that `State` hands them the ReLU."""
    if not isinstance(layers, Activated):
        return layers
    first = layers[0]
    return Activated(Reduction(first) if isinstance(first, FactorizedReduction) else _pointwise(layers))


def _pointwise(layers: nn.Module) -> Pointwise:
    """layers: a Sequential of a 1x1 convolution and its norm."""
    convolution, norm = cast(Iterable[Any], layers)
    return Pointwise(convolution, norm)
