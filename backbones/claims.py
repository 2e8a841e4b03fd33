"""How many layers a weights file claims, held against its tensors before any of them is built."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from backbones.genotype import Cell
from backbones.plan import live_outputs, plan_cells
from backbones.spec import NetworkSpec
from backbones.timm_spec import TimmSpec
from backbones.words import counted

LARGEST_ARGUMENT = 1024
"""Among timm's, that any file may claim; a larger number must be a size of its tensors, or their count."""


def check_size(spec: NetworkSpec | TimmSpec, tensors: Mapping[str, Tensor], where: str) -> None:
    """Raises ValueError where the spec asks for more layers than the tensors are enough for.

    Widths are not looked at: on PyTorch's `meta` device they cost nothing. where: the file, for the message.
    """
    if isinstance(spec, TimmSpec):
        _check_arguments(spec.arguments, tensors, where)
    else:
        _check_cells(spec, len(tensors), where)


def _check_cells(spec: NetworkSpec, tensors: int, where: str) -> None:
    plans = plan_cells(spec)
    live = live_outputs(plans)
    needed = sum(1 + _convolutions(plan.cell) for index, plan in enumerate(plans, start=1) if index in live)
    if needed > tensors:
        raise ValueError(
            f"{where}: network.cells_per_stage = {spec.cells_per_stage} takes at least "
            f"{counted(needed, 'tensor')}, the file holds {tensors}"
        )


def _convolutions(cell: Cell) -> int:
    """Operations with weights; an identity may have some, pools have none."""
    blocks = cell.live_blocks().values()
    names = [name for block in blocks for name in (block.left_op, block.right_op)]
    return sum("conv" in name for name in names)


def _check_arguments(value: Any, tensors: Mapping[str, Tensor], where: str) -> None:
    """Numbers in timm's arguments are counts of layers and widths; either shows in the tensors."""
    sizes = [side for tensor in tensors.values() for side in tensor.shape]
    most = max(LARGEST_ARGUMENT, len(tensors), *sizes, 0)
    rest = [value]
    while rest:
        one = rest.pop()
        if isinstance(one, Mapping):
            rest += one.values()
        elif isinstance(one, list | tuple):
            rest += one
        elif isinstance(one, int | float) and not -most <= one <= most:
            raise ValueError(f"{where}: network.arguments holds {one}, its tensors are of at most {most}")
