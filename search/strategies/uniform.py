"""Random search, the paper's baseline."""

from collections.abc import Sequence

from search.messages import Proposal, Result
from search.space import Space
from search.strategies.config import StrategyConfig
from search.strategies.protocol import NO_TENSORS, State, check_state


class RandomSearch:
    """Draws every decision uniformly and learns nothing; a failed child means nothing to it."""

    def __init__(self, config: StrategyConfig, space: Space, seed: int):
        """config: has no keys of its own."""
        self._space, self._seed, self._proposed = space, seed, 0
        self._entropy = space.entropy

    def propose(self, n: int, pending: Sequence[Proposal]) -> list[Proposal]:
        first, self._proposed = self._proposed, self._proposed + n
        draws = [(number, self._draw(number)) for number in range(first, first + n)]
        return [Proposal(i, self._space.decode(draw), draw, -self._entropy) for i, draw in draws]

    def _draw(self, number: int) -> tuple[int, ...]:
        return self._space.sample(self._seed, number)

    def observe(self, results: Sequence[Result]) -> None:
        del results

    def state_dict(self) -> State:
        return State(NO_TENSORS, {"proposed": self._proposed})

    def load_state_dict(self, state: State) -> None:
        check_state(state, {}, ["proposed"])
        self._proposed = state.values["proposed"]
