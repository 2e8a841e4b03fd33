"""From a proposal to a child of the search: one that runs, a duplicate, or one that is rejected."""

from collections.abc import Callable

from backbones.genotype import Genotype
from search.config import LimitsConfig
from search.ledger.rows import ChildRow
from search.messages import COUNTS, Cost, Failure, Proposal, Result


class Admission:
    """Knows the limits, the first child of every cell, and the duplicates that wait for one.

    A rejected cell is over a limit: it fails at once, costs nothing and never runs. A duplicate takes the
    result of the lowest number with its cell and needs no worker. It is virtually finished with that child,
    or at its own start if that is later.
    """

    def __init__(self, cost: Callable[[Genotype], Cost], limits: LimitsConfig):
        self._cost, self._limits = cost, limits
        self._originals: dict[str, ChildRow] = {}
        self._waiting: dict[int, list[ChildRow]] = {}
        self._rejected_in_a_row = 0

    def enter(self, proposal: Proposal, group: int, start: int) -> ChildRow:
        """The row of a proposal that virtually starts at `start`; done where its result is known already."""
        genotype, key = proposal.genotype, proposal.genotype.key
        original = self._originals.get(key)
        cost = self._cost_of(genotype, original)
        rejection = self._rejection(cost)
        if rejection:
            original, finish = None, start
        else:
            finish = max(start, original.finish) if original else start + cost.microseconds
        row = ChildRow(
            number=proposal.number,
            proposal_group=group,
            genotype=genotype,
            cell_key=key,
            decisions=proposal.decisions,
            log_prob=proposal.log_prob,
            log_probs=proposal.log_probs,
            cost=finish - start,
            start=start,
            finish=finish,
            parameters=cost.parameters,
            multiply_adds=cost.multiply_adds,
            activation_bytes=cost.activation_bytes,
            original=original.number if original else None,
        )
        if rejection:
            row.finish_with(Result(proposal, failure=Failure.REJECTED, detail=rejection))
        elif original and original.status == "done":
            row.finish_with(original.result)
        self.add(row)
        return row

    def _cost_of(self, genotype: Genotype, original: ChildRow | None) -> Cost:
        """From the first child of the cell where it is known: profiling takes milliseconds."""
        if original and original.parameters and original.multiply_adds and original.activation_bytes:
            counts = original.parameters, original.multiply_adds, original.activation_bytes
            return Cost(original.cost, *counts)
        return self._cost(genotype)

    def _rejection(self, cost: Cost) -> str:
        """Which limit a cell is over; empty where it is over none."""
        for name in COUNTS:
            limit, value = getattr(self._limits, name), getattr(cost, name)
            if limit is not None and value > limit:
                return f"{name} {value:,} are over limits.{name} = {limit:,}"
        limit = self._limits.latency_ms
        if limit is not None and cost.latency_ms is not None and cost.latency_ms > limit:
            return f"predicted {cost.latency_ms:.1f} ms are over limits.latency_ms = {limit:g}"
        return ""

    def add(self, row: ChildRow) -> None:
        """Takes note of a row: one that `enter` made, or one from the ledger."""
        if row.failure is Failure.REJECTED:
            self._rejected_in_a_row += 1
            return
        self._rejected_in_a_row = 0
        self._originals.setdefault(row.cell_key, row)
        if row.original is not None and row.status != "done":
            self._waiting.setdefault(row.original, []).append(row)

    @property
    def rejected_in_a_row(self) -> int:
        """The newest proposals that were all rejected."""
        return self._rejected_in_a_row

    def duplicates(self, row: ChildRow) -> list[ChildRow]:
        """Those that waited for `row`, which now wait no longer."""
        return self._waiting.pop(row.number, [])
