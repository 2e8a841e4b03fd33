"""Differences to random search, paired by seed."""

from types import SimpleNamespace

import numpy as np
import pytest

from search import paired
from search.history import Group
from search.paired import FEWEST, RESAMPLES, differences, figures


def search(strategy, seed, rewards):
    rows = [SimpleNamespace(number=i, original=None, reward=reward) for i, reward in enumerate(rewards)]
    return SimpleNamespace(strategy=strategy, seed=seed, rows=rows)


def groups(**rewards_by_seed):
    """One group for each strategy."""
    return [
        Group(name, [search(name, seed, rewards) for seed, rewards in by_seed.items()])
        for name, by_seed in rewards_by_seed.items()
    ]


def test_figures_are_those_of_the_first_children():
    rewards = [0.1, None, 0.9, 0.5, 0.4, 0.3, 1.0]
    found = figures(search("random", 0, rewards), children=6, late=2)
    assert found == pytest.approx({"top 1": 0.9, "top 5": 0.44, "last 2": 0.35})


def test_pairs_are_of_one_seed_after_equally_many_children(monkeypatch):
    monkeypatch.setattr(paired, "FEWEST", 2)
    random, own = groups(
        random={0: [0.1, 0.2, 0.9], 1: [0.3, 0.3], 2: [0.5, 0.5]},
        evolution={0: [0.4, 0.3], 1: [0.5, 0.1, 1.0], 7: [1.0, 1.0]},
    )
    found = differences(own, [random, own], late=1)
    assert found["top 1"][:3] == pytest.approx((0.2, 0.2, 0.2))  # 0.4 - 0.2, 0.5 - 0.3
    assert found["last 1"].mean == pytest.approx(((0.3 - 0.2) + (0.1 - 0.3)) / 2)
    assert found["top 1"].seeds == 2
    assert differences(random, [random, own], late=1) == {}
    assert differences(own, [own], late=1) == {}


def test_the_interval_is_that_of_the_mean_over_seeds():
    seeds = range(20)
    noise = np.random.default_rng(0).normal(0.02, 0.01, len(seeds))
    random, own = groups(
        random={seed: [0.5] for seed in seeds}, controller={seed: [0.5 + noise[seed]] for seed in seeds}
    )
    found = differences(own, [random, own], late=1)["top 1"]
    half = 1.96 * noise.std() / len(seeds) ** 0.5
    assert RESAMPLES >= 10_000
    assert (found.low, found.high) == pytest.approx(
        (noise.mean() - half, noise.mean() + half), abs=0.1 * half
    )


def test_a_few_common_seeds_give_no_interval():
    own = {seed: [0.3 + seed / 10] for seed in range(FEWEST)}
    random = {seed: [0.1] for seed in range(FEWEST - 1)} | {77: [0.2]}
    (baseline, other) = groups(random=random, controller=own)
    assert differences(other, [baseline, other], late=1) == {}
    (baseline, other) = groups(random=random | {FEWEST - 1: [0.1]}, controller=own)
    assert differences(other, [baseline, other], late=1)["top 1"].seeds == FEWEST
