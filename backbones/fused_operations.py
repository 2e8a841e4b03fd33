"""Operations for inference: batch norm folded, 1x1 convolutions as matrix products over channels-last memory.

Letters: N images, C channels, H W pixels; M = N * H * W rows of a map seen as a matrix; K input channels.
"""

import copy
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from backbones.cell import State
from backbones.layers import Activated, FactorizedReduction

CONVOLVE_FROM_ROWS = 1700
"""M from which a 1x1 convolution beats the matrix product, whose bias is a pass over memory of its own."""


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
