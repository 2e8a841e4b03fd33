"""Regularised evolution. Source: Real et al. 2019 (1802.01548), section 2 and algorithm 1.

A child is its parent with one mutation; the parent is the best of a sample of the population. The population
ages: a scored child enters it, and the oldest leaves however good it is. The first children are random, until
the population is full.

Choices beyond the paper:

1. A mutation changes one decision: an input, an operation, or the combination of a block. Each decision is
   equally likely, as inputs and operations are in the paper, whose space has no combinations. There is no
   mutation that changes nothing: it would give a duplicate, which is not trained again.
2. Results come late. The age of a member is the order in which results are observed, and a child descends
   from the population as it is when the child is proposed.
3. The sample is drawn with replacement, and among its best the oldest is the parent.
4. A failed or rejected child never enters the population.
"""

from collections import deque
from collections.abc import Sequence

from runtime.random import uniforms
from search.messages import Proposal, Result
from search.space import Space
from search.strategies.config import EvolutionConfig
from search.strategies.protocol import NO_TENSORS, State, check_state


class Evolution:
    """A population of the newest scored children, and what descends from it."""

    def __init__(self, config: EvolutionConfig, space: Space, seed: int):
        self._config, self._space, self._seed = config, space, seed
        self._proposed = 0
        self._population: deque[tuple[tuple[int, ...], float]] = deque(maxlen=config.population)

    def propose(self, n: int, pending: Sequence[Proposal]) -> list[Proposal]:
        first, self._proposed = self._proposed, self._proposed + n
        draws = [(number, self._draw(number)) for number in range(first, first + n)]
        return [Proposal(number, self._space.decode(draw), draw) for number, draw in draws]

    def _draw(self, number: int) -> tuple[int, ...]:
        if len(self._population) < self._config.population:
            return self._space.sample(self._seed, number)
        chance = uniforms(self._config.sample + 2, self._seed, "evolution", number)
        sample = sorted({int(u * len(self._population)) for u in chance[2:]})
        parent, _ = max((self._population[member] for member in sample), key=lambda member: member[1])
        return self._space.mutate(parent, chance[:2].tolist())

    def observe(self, results: Sequence[Result]) -> None:
        for result in results:
            if result.reward is not None:
                self._population.append((result.proposal.decisions, result.reward))

    def state_dict(self) -> State:
        members = [list(member) for member in self._population]
        return State(NO_TENSORS, {"proposed": self._proposed, "population": members})

    def load_state_dict(self, state: State) -> None:
        check_state(state, {}, ["proposed", "population"])
        self._proposed = state.values["proposed"]
        self._population.clear()
        self._population.extend(
            (tuple(decisions), reward) for decisions, reward in state.values["population"]
        )
