"""The reward table: its scale and its best cell are exact."""

import itertools
import statistics

import numpy as np
import pytest

from search.children.reward_table import RewardTable
from search.messages import ChildTask, Proposal
from search.space import Space

SMALL = Space(1, ("identity", "conv_1x1", "conv_3x3"), ("add", "concat"))


@pytest.mark.parametrize("seed", range(3))
def test_mean_deviation_and_best_cell_are_those_of_all_cells(seed):
    table = RewardTable(SMALL, seed)
    cells = list(itertools.product(*map(range, SMALL.sizes)))
    scores = np.array([table.z(cell) for cell in cells])
    assert scores.mean() == pytest.approx(0, abs=1e-9)
    assert scores.std() == pytest.approx(1)
    assert cells[int(scores.argmax())] == table.best
    assert scores.max() == pytest.approx(table.best_z)


def test_random_cells_of_the_paper_space_are_standardised_and_far_from_the_best():
    space = Space()
    table = RewardTable(space, 0)
    scores = [table.z(space.sample(1, number)) for number in range(2000)]
    assert statistics.mean(scores) == pytest.approx(0, abs=0.1)
    assert statistics.stdev(scores) == pytest.approx(1, abs=0.07)
    assert table.best_z > 2 * max(scores)
    assert 0 < table.reward(table.best, 0) < 1


def test_training_again_adds_other_noise_to_the_same_reward():
    table = RewardTable(SMALL, 0, mean=0.5, sd=0.01, noise=0.002)
    decisions = SMALL.sample(3, 0)
    genotype = SMALL.decode(decisions)
    proposal = Proposal(0, genotype, decisions)
    rewards = [table(genotype, ChildTask(proposal, seed)) for seed in range(400)]
    assert rewards == [table(genotype, ChildTask(proposal, seed)) for seed in range(400)]
    assert statistics.mean(rewards) == pytest.approx(0.5 + 0.01 * table.z(decisions), abs=4e-4)
    assert statistics.stdev(rewards) == pytest.approx(0.002, rel=0.15)


def test_seeds_have_tables_of_their_own():
    cells = [SMALL.sample(0, number) for number in range(50)]
    one, other = ([RewardTable(SMALL, seed).z(cell) for cell in cells] for seed in (1, 2))
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.6
    assert one == [RewardTable(SMALL, 1).z(cell) for cell in cells]
