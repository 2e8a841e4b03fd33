"""Which cells a network has and what each of them reads, without a tensor. Source: TF-slim `nasnet.py`."""

from dataclasses import dataclass

from backbones.spec import NetworkSpec


@dataclass(frozen=True)
class CellPlan:
    """Where a cell stands. h, h_prev: index into the outputs so far, 0 being the stem; None: no such.

    read: the outputs that the cell's states depend on.
    """

    name: str
    reduction: bool
    channels: int
    h: int
    h_prev: int | None
    read: frozenset[int]


def plan_cells(spec: NetworkSpec) -> list[CellPlan]:
    """The cells in order of execution. Source: TF-slim `nasnet.py`; docs/nasnet.md, sections 4.1 to 4.3."""
    plans: list[CellPlan] = []

    def add(name: str, channels: int, reduction: bool = False, h_prev: int | None = None) -> None:
        h = len(plans)
        if h_prev is None and h:
            h_prev = h - 1
        inputs = {0: h, 1: h if h_prev is None else h_prev}
        cell = spec.genotype.reduction if reduction else spec.genotype.normal
        read = frozenset(inputs[state] for state in cell.live_states() if state < 2)
        plans.append(CellPlan(name, reduction, channels, h, h_prev, read))

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


def live_outputs(plans: list[CellPlan]) -> frozenset[int]:
    """Outputs that the last cell depends on. Cells that read h_{i-1} alone leave others without a reader."""
    live = {len(plans)}
    for index in range(len(plans), 0, -1):
        if index in live:
            live |= plans[index - 1].read
    return frozenset(live)
