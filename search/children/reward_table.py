"""Rewards without training: a table over pairs of decisions whose best cell is known exactly."""

from collections.abc import Sequence

import numpy as np

from backbones.genotype import Genotype
from runtime.random import normals, uniforms
from search.messages import ChildTask
from search.space import Space


class RewardTable:
    """Scores decisions by tables of pairs along a random tree: as an evaluator, mean + sd * z + noise.

    Each decision but the first has one random earlier decision as its neighbour, and each pair of neighbours
    a table of standard normal numbers, `[options of the one, options of the other]`. Their sum, minus its
    mean over random cells and divided by its standard deviation, is z; both are exact, as is `best`, since a
    tree allows dynamic programming. All follows from `space` and `seed`. The noise follows from the task's
    seed, as that of a training does.
    """

    def __init__(
        self, space: Space, seed: int, *, mean: float = 0.88, sd: float = 0.008, noise: float = 0.003
    ):
        """mean, sd: of the true rewards of random cells. noise: sd of a reward about the true one."""
        self._scale = mean, sd, noise
        sizes = space.sizes
        self._children = np.arange(1, len(sizes))
        draws = uniforms(len(self._children), seed, "tree")
        self._parents = (draws * self._children).astype(np.int64)
        self._edges = list(zip(self._children.tolist(), self._parents.tolist(), strict=True))
        self._tables = np.zeros((len(self._children), max(sizes), max(sizes)))  # padded with zeros
        for child, parent in self._edges:
            table = normals(sizes[parent] * sizes[child], seed, "table", child)
            self._tables[child - 1, : sizes[parent], : sizes[child]] = table.reshape(sizes[parent], -1)
        self._mean, self._sd, self.best = self._solve(sizes)
        self.best_z = self.z(self.best)

    def _solve(self, sizes: Sequence[int]) -> tuple[float, float, tuple[int, ...]]:
        """Mean and standard deviation of the sum over uniform decisions, and the decisions of its maximum.

        From the leaves to the root: what the decisions below one add, given that one's option.
        """
        mean = [np.zeros(size) for size in sizes]
        variance = [np.zeros(size) for size in sizes]
        most = [np.zeros(size) for size in sizes]
        for child, parent in reversed(self._edges):
            table = self._tables[child - 1, : sizes[parent], : sizes[child]]
            given = table + mean[child]
            mean[parent] += given.mean(axis=1)
            variance[parent] += variance[child].mean() + given.var(axis=1)
            most[parent] += (table + most[child]).max(axis=1)
        best = [int(most[0].argmax())]
        for child, parent in self._edges:
            best.append(int((self._tables[child - 1, best[parent], : sizes[child]] + most[child]).argmax()))
        return float(mean[0].mean()), float(np.sqrt(variance[0].mean() + mean[0].var())), tuple(best)

    def z(self, decisions: Sequence[int]) -> float:
        """The true reward of `[T]` decisions, in standard deviations of random cells from their mean."""
        chosen = np.asarray(decisions)
        total = self._tables[self._children - 1, chosen[self._parents], chosen[self._children]].sum()
        return float((total - self._mean) / self._sd)

    def reward(self, decisions: Sequence[int], seed: int) -> float:
        """What a training with `seed` would report."""
        mean, sd, noise = self._scale
        return mean + sd * self.z(decisions) + noise * float(normals(1, seed, "noise")[0])

    def __call__(self, genotype: Genotype, task: ChildTask) -> float:
        return self.reward(task.proposal.decisions, task.seed)
