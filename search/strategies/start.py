"""Known cells before a strategy's own."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from backbones.files import expanded
from backbones.genotype import Genotype
from backbones.ranges import KEY, ConfigError
from search.messages import Proposal, Result
from search.space import Space
from search.strategies.protocol import State, Strategy, check_state


class KnownFirst:
    """Proposes known cells, then what a strategy proposes, which never hears of them.

    To the strategy its own first proposal is number 0: it does what it would do without known cells.
    """

    def __init__(self, strategy: Strategy, space: Space, paths: Sequence[str]):
        """paths: genotype files. Raises FileNotFoundError, GenotypeError, or ConfigError for a genotype that
        lies outside the space."""
        self._strategy, self._proposed = strategy, 0
        self._paths = [expanded(path) for path in paths]
        self._known = [_known(space, number, path) for number, path in enumerate(self._paths)]

    def propose(self, n: int, pending: Sequence[Proposal]) -> list[Proposal]:
        known = self._known[self._proposed : self._proposed + n]
        self._proposed += len(known)
        inner = self._strategy.propose(n - len(known), self._own(pending)) if n > len(known) else []
        return known + [replace(each, number=each.number + len(self._known)) for each in inner]

    def observe(self, results: Sequence[Result]) -> None:
        own = self._own([result.proposal for result in results])
        learned = [result for result in results if result.proposal.number >= len(self._known)]
        self._strategy.observe(
            [replace(result, proposal=proposal) for result, proposal in zip(learned, own, strict=True)]
        )

    def _own(self, proposals: Sequence[Proposal]) -> list[Proposal]:
        """The strategy's among them, as it numbered them."""
        first = len(self._known)
        return [replace(each, number=each.number - first) for each in proposals if each.number >= first]

    def _cells(self) -> list[list[int]]:
        """The decisions of the known cells, by which a resume knows them again."""
        return [list(each.decisions) for each in self._known]

    def state_dict(self) -> State:
        tensors, values = self._strategy.state_dict()
        return State(tensors, {"known_proposed": self._proposed, "known": self._cells(), "strategy": values})

    def load_state_dict(self, state: State) -> None:
        tensors, values = state
        check_state(State({}, values), {}, ["known_proposed", "known", "strategy"])
        changed = [
            path
            for path, then, now in zip(self._paths, values["known"], self._cells(), strict=True)
            if then != now
        ]
        if changed:
            raise ConfigError(f"{KEY}start: {changed[0]} holds another cell than when the search began")
        self._strategy.load_state_dict(State(tensors, values["strategy"]))
        self._proposed = values["known_proposed"]


def _known(space: Space, number: int, path: Path) -> Proposal:
    genotype = Genotype.load(path)
    try:
        decisions = space.encode(genotype)
    except ValueError as error:
        raise ConfigError(f"{KEY}start: {path}: {error}") from None
    return Proposal(number, space.decode(decisions), decisions)
