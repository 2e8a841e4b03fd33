"""Strategies find better cells than random search, on rewards whose scale is known."""

import statistics

import pytest

from benchmarks.learning import interval, late_z, read, table
from search.space import Space
from search.strategies.config import ControllerConfig, EvolutionConfig, RandomConfig

LEARNERS = [ControllerConfig(), EvolutionConfig()]
EASY = Space(blocks=1, operations=("identity", "conv_1x1", "conv_3x3", "avg_pool_3x3"))


def name(config):
    return config.name


@pytest.mark.parametrize("config", [ControllerConfig(), EvolutionConfig(population=50, sample=10)], ids=name)
def test_late_children_are_better_than_random_ones_in_a_small_space(config):
    """600 children of 16,384 cells, with late results: the mean of the last 150 over two tables."""
    learned, random = (
        statistics.mean(late_z(each, window=20, children=600, seed=seed, space=EASY) for seed in range(2))
        for each in (config, RandomConfig())
    )
    assert random == pytest.approx(0, abs=0.25)  # four standard errors
    assert learned > 1


@pytest.mark.slow
@pytest.mark.parametrize("window", [20, 40])
def test_late_children_are_two_deviations_better_than_random_ones_in_the_papers_space(window):
    seeds = range(20)
    random = [late_z(RandomConfig(), window=window, children=2000, seed=seed) for seed in seeds]
    for config in LEARNERS:
        learned = [late_z(config, window=window, children=2000, seed=seed) for seed in seeds]
        assert statistics.mean(learned) >= 2
        mean, half = interval([one - other for one, other in zip(learned, random, strict=True)])
        assert mean - half > 0


def test_interval_is_students():
    # t(0.975, 3 degrees of freedom) = 3.1824; standard deviation of 1..4 is 1.2910
    assert interval([1.0, 2.0, 3.0, 4.0]) == pytest.approx((2.5, 3.1824 * 1.2910 / 2), rel=1e-4)


def test_results_of_a_killed_study_are_read_without_its_cut_line(tmp_path):
    path = tmp_path / "results.jsonl"
    assert read(path) == {}
    line = '{"way": "random", "window": 20, "children": 2000, "seed": %d, "z": %s, "cpu_seconds": 9}\n'
    alone = '{"way": "evolution", "window": 40, "children": 2000, "seed": 0, "z": 3, "cpu_seconds": 1}\n'
    path.write_text(line % (0, "1.5") + line % (1, "2.5") + alone + '{"way": "rand')
    results = read(path)
    assert results == {
        ("random", 20, 2000, 0): 1.5,
        ("random", 20, 2000, 1): 2.5,
        ("evolution", 40, 2000, 0): 3,
    }
    assert table(results).splitlines() == [
        "| | window 20, 2,000 children | window 40, 2,000 children |",
        "|---|---:|---:|",
        "| evolution |  | 3.00 (1) |",
        "| random | 2.00 ± 6.35 (2) |  |",
    ]
