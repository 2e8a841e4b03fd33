"""Differences between strategies, paired by seed: what a comparison of searches rests on."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from runtime.random import derive

RESAMPLES = 10_000
FEWEST = 2
"""Seeds that both strategies ran."""


class Difference(NamedTuple):
    """Mean over the seeds of one strategy's figure minus another's, and its 95 % interval.

    The interval is the percentile bootstrap's over the seeds."""

    mean: float
    low: float
    high: float
    seeds: int


def difference(figures: Mapping[int, float], baseline: Mapping[int, float]) -> Difference | None:
    """figures, baseline: by seed. Only seeds of both count; None where they are fewer than FEWEST."""
    seeds = sorted(figures.keys() & baseline.keys())
    if len(seeds) < FEWEST:
        return None
    values = np.array([figures[seed] - baseline[seed] for seed in seeds])
    generator = np.random.default_rng(derive(0, "paired"))
    means = values[generator.integers(0, len(values), (RESAMPLES, len(values)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Difference(float(values.mean()), float(low), float(high), len(seeds))
