"""How much strategies learn on rewards whose optimum is known."""

import itertools
import statistics

import pytest

from benchmarks.learning import interval, late_mean, z_of_search
from runtime.device import torch_threads
from search.children.analytic import NOISE, SD, AnalyticRewards
from search.messages import ChildTask, Proposal
from search.space import Space
from search.strategies.config import ControllerConfig, EvolutionConfig, RandomConfig


def test_the_optimum_is_the_best_of_all_cells():
    space = Space(blocks=1, operations=("identity", "conv_1x1", "avg_pool_3x3"))
    for seed in range(3):
        rewards = AnalyticRewards(space, seed)
        every = itertools.product(*map(range, space.sizes))
        assert rewards.optimum() == max(every, key=rewards.z)


def test_rewards_have_the_spread_and_the_noise_that_they_are_said_to_have():
    space = Space()
    rewards = AnalyticRewards(space, 0)
    random = [rewards.z(space.sample(1, number)) for number in range(1000)]
    assert statistics.fmean(random) == pytest.approx(0, abs=0.1)
    assert statistics.stdev(random) == pytest.approx(1, abs=0.1)
    best = rewards.optimum()
    assert rewards.z(best) > max(random)
    proposal = Proposal(0, space.decode(best), best)
    trained = [rewards(proposal.genotype, ChildTask(proposal, seed)) for seed in range(400)]
    assert statistics.fmean(trained) == pytest.approx(0.9 + SD * rewards.z(best), abs=NOISE / 5)
    assert statistics.stdev(trained) == pytest.approx(NOISE, rel=0.15)


def test_strategies_learn_on_a_small_space():
    """400 cells of one block each; random search stays within four standard errors of 0."""
    space, window = Space(blocks=1), 10
    rewards = AnalyticRewards(space, 0)

    def late(config):
        return statistics.fmean(
            z_of_search(config, rewards, 0, children=400, window=window, space=space)[-100:]
        )

    assert abs(late(RandomConfig())) < 0.4
    assert late(EvolutionConfig(population=30, sample=10)) > 1
    assert late(ControllerConfig(lr=0.003)) > 1


@pytest.mark.slow
@pytest.mark.parametrize("window", [20, 40])
def test_strategies_learn_and_beat_random_search_over_20_seeds(window):
    """2,000 children each: late mean z of 2 and more; the paired difference to random is above 0."""
    late: dict[str, list[float]] = {name: [] for name in ("random", "evolution", "controller")}
    configs = {"random": RandomConfig(), "evolution": EvolutionConfig(), "controller": ControllerConfig()}
    with torch_threads(1):
        for seed in range(20):
            rewards = AnalyticRewards(Space(), seed)
            for name, config in configs.items():
                late[name].append(late_mean(z_of_search(config, rewards, seed, children=2000, window=window)))
    for name in ("evolution", "controller"):
        assert statistics.fmean(late[name]) >= 2
        mean, half = interval([z - other for z, other in zip(late[name], late["random"], strict=True)])
        assert mean - half > 0


def test_intervals_are_those_of_student():
    # Four values with mean 5 and standard error sqrt(20/3)/2: half = 3.18 * 1.291.
    assert interval([2.0, 4.0, 6.0, 8.0]) == pytest.approx((5.0, 3.18 * 1.29099), abs=1e-3)
