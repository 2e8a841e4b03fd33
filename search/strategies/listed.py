"""Genotypes of a list, one after the other: what `search.rerank` and `search.probe` train."""

from collections.abc import Sequence

from backbones.genotype import Genotype
from search.messages import Proposal, Result
from search.space import Space
from search.strategies.config import ListedConfig
from search.strategies.protocol import NO_TENSORS, State, check_state


class Listed:
    """Proposes the genotypes of its files in their order, and learns nothing. The budget is their number."""

    def __init__(self, config: ListedConfig, space: Space, seed: int):
        """Raises ValueError, which names the file, for a genotype outside the space. seed: is not used."""
        self._cells, self._proposed = [_cell(file, space) for file in config.genotypes], 0

    def propose(self, n: int, pending: Sequence[Proposal]) -> list[Proposal]:
        numbers = range(self._proposed, self._proposed + n)
        self._proposed += n
        return [Proposal(number, *self._cells[number]) for number in numbers]

    def observe(self, results: Sequence[Result]) -> None:
        del results

    def state_dict(self) -> State:
        return State(NO_TENSORS, {"proposed": self._proposed})

    def load_state_dict(self, state: State) -> None:
        check_state(state, {}, ["proposed"])
        self._proposed = state.values["proposed"]


def _cell(file: str, space: Space) -> tuple[Genotype, tuple[int, ...]]:
    genotype = Genotype.load(file)
    try:
        return genotype, space.encode(genotype)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
