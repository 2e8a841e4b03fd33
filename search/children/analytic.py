"""Rewards of a space without any training: a sum over neighbouring decisions."""

from itertools import pairwise
from statistics import NormalDist

import numpy as np

from backbones.genotype import Genotype
from runtime.random import uniforms
from search.messages import ChildTask
from search.space import Space

SD, NOISE = 0.008, 0.003
"""Of the rewards of random cells, and between two trainings of one; in accuracy."""


class AnalyticRewards:
    """Scores decisions by a table for each two neighbours: those of a random cell are 0.9 +- SD.

    The interactions form a chain, so the best decisions are known exactly.
    """

    def __init__(self, space: Space, seed: int):
        sizes = space.sizes
        self._tables = [
            _normal(uniforms(one * other, seed, "table", step)).reshape(one, other)
            for step, (one, other) in enumerate(pairwise(sizes))
        ]
        random = [self._score(space.sample(seed, number)) for number in range(2000)]
        self._mean, self._sd = float(np.mean(random)), float(np.std(random)) or 1.0

    def __call__(self, genotype: Genotype, task: ChildTask) -> float:
        return (
            0.9
            + SD * self.z(task.proposal.decisions)
            + NOISE * float(_normal(uniforms(1, task.seed, "noise"))[0])
        )

    def z(self, decisions: tuple[int, ...]) -> float:
        """The reward without noise, in standard deviations of random cells' above their mean."""
        return (self._score(decisions) - self._mean) / self._sd

    def optimum(self) -> tuple[int, ...]:
        """Decisions of the highest reward, found by dynamic programming from the last decision backwards."""
        best, followers = np.zeros(self._tables[-1].shape[1]), []
        for table in reversed(self._tables):
            followers.append((table + best).argmax(axis=1))
            best = (table + best).max(axis=1)
        decisions = [int(best.argmax())]
        for follower in reversed(followers):
            decisions.append(int(follower[decisions[-1]]))
        return tuple(decisions)

    def _score(self, decisions: tuple[int, ...]) -> float:
        steps = zip(self._tables, pairwise(decisions), strict=True)
        return float(sum(table[pair] for table, pair in steps))


def _normal(chance: np.ndarray) -> np.ndarray:
    return np.array([NormalDist().inv_cdf(min(max(u, 1e-12), 1 - 1e-12)) for u in chance])
