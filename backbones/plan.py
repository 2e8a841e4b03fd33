"""Which cells a network has, without a tensor. Source: TF-slim `nasnet.py`; docs/nasnet.md, section 4."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from backbones.genotype import Cell
from backbones.spec import NetworkSpec


@dataclass(frozen=True)
class CellPlan:
    """A cell and its place. Outputs are numbered from 0, the stem; cell i of the plan makes output i + 1.

    channels: of each of its states. stride: pixels of the image per step of its output.
    h, h_prev: the outputs that it is given; h_prev is None where there is no cell before the previous one.
    """

    name: str
    cell: Cell
    reduction: bool
    channels: int
    stride: int
    h: int
    h_prev: int | None

    @property
    def width(self) -> int:
        """Channels of the output."""
        return self.channels * len(self.cell.concat)

    @property
    def inputs(self) -> tuple[int, int]:
        """The outputs that become states 0 and 1; h stands in where h_prev is None (docs/nasnet.md, T6)."""
        return self.h, self.h if self.h_prev is None else self.h_prev

    @property
    def read(self) -> frozenset[int]:
        """The outputs that the cell's own output depends on."""
        return frozenset(self.inputs[state] for state in self.cell.live_states() if state < 2)


def plan_cells(spec: NetworkSpec) -> list[CellPlan]:
    """The cells in order of execution."""
    plans: list[CellPlan] = []

    def add(name: str, channels: int, reduction: bool = False, h_prev: int | None = None) -> None:
        h = len(plans)
        if h_prev is None and h:
            h_prev = h - 1
        cell = spec.genotype.reduction if reduction else spec.genotype.normal
        stride = (plans[-1].stride if plans else spec.stem_stride) * (2 if reduction else 1)
        plans.append(CellPlan(name, cell, reduction, channels, stride, h, h_prev))

    if spec.stem == "imagenet":
        add("stem_0", spec.filters // 4, reduction=True)
        add("stem_1", spec.filters // 2, reduction=True)
    for stage in range(3):
        channels, skipped = spec.filters * 2**stage, None
        if stage:
            add(f"reduction_{stage - 1}", channels, reduction=True)
            skipped = plans[-1].h_prev if spec.skip_reduction_input else None
        for cell in range(stage * spec.cells_per_stage, (stage + 1) * spec.cells_per_stage):
            add(f"cell_{cell}", channels, h_prev=skipped)
            skipped = None
    return plans


def live_outputs(plans: Sequence[CellPlan], wanted: Collection[int] = ()) -> frozenset[int]:
    """Outputs that the last cell, or those `wanted` instead, depend on, and these themselves.

    Cells that read h_{i-1} alone leave others without a reader.
    """
    live = set(wanted) or {len(plans)}
    for index in range(len(plans), 0, -1):
        if index in live:
            live |= plans[index - 1].read
    return frozenset(live)
