"""From a proposal to a child of the search: a new one, or a duplicate."""

from collections.abc import Callable

from backbones.genotype import Genotype
from search.ledger.rows import ChildRow
from search.messages import Proposal


class Admission:
    """Knows the first child of every cell, and the duplicates that wait for one.

    A duplicate takes the result of the lowest number with its cell and needs no worker. It is virtually
    finished with that child, or at its own start if that is later.
    """

    def __init__(self, cost: Callable[[Genotype], int]):
        """cost: predicted run time in microseconds."""
        self._cost = cost
        self._originals: dict[str, ChildRow] = {}
        self._waiting: dict[int, list[ChildRow]] = {}

    def enter(self, proposal: Proposal, group: int, start: int) -> ChildRow:
        """The row of a proposal that virtually starts at `start`; done where its result is known already."""
        genotype, key = proposal.genotype, proposal.genotype.key
        original = self._originals.get(key)
        finish = max(start, original.finish) if original else start + self._cost(genotype)
        proposed = proposal.number, group, genotype, key, proposal.decisions, proposal.log_prob
        row = ChildRow(*proposed, finish - start, start, finish, original.number if original else None)
        if original and original.status == "done":
            row.finish_with(original.result)
        self.add(row)
        return row

    def add(self, row: ChildRow) -> None:
        """Takes note of a row: one that `enter` made, or one from the ledger."""
        self._originals.setdefault(row.cell_key, row)
        if row.original is not None and row.status != "done":
            self._waiting.setdefault(row.original, []).append(row)

    def duplicates(self, row: ChildRow) -> list[ChildRow]:
        """Those that waited for `row`, which now wait no longer."""
        return self._waiting.pop(row.number, [])
