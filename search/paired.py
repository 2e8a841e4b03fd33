"""Differences of strategies to random search, paired by seed: what a comparison of searches rests on."""

import statistics
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from runtime.random import derive
from search.curves import TOP
from search.history import Group, History
from search.ledger.rows import best_first

BASELINE = "random"
RESAMPLES = 10_000
FEWEST = 5
"""Seeds that both strategies ran: with two, equal strategies would seem to differ half of the time."""


class Difference(NamedTuple):
    """Mean over the seeds of one strategy's figure minus another's, and its 95 % interval.

    The interval is the percentile bootstrap's over the seeds."""

    mean: float
    low: float
    high: float
    seeds: int


def figures(search: History, children: int, late: int) -> dict[str, float]:
    """`top K`, the mean reward of the best K unique cells, and `last N` of the newest rewards.

    children: how many count, the first ones. late: N."""
    rows = search.rows[:children]
    best = [row.reward or 0.0 for row in best_first(rows)]
    found = {f"top {count}": statistics.fmean(best[:count]) for count in TOP if len(best) >= count}
    newest = [row.reward for row in rows if row.reward is not None][-late:]
    return found | ({f"last {late}": statistics.fmean(newest)} if newest else {})


def differences(group: Group, groups: Sequence[Group], late: int) -> dict[str, Difference]:
    """By figure, of the seeds that the group and random search have in common, after equally many children.

    Empty for random search itself, without it, and below FEWEST common seeds."""
    baseline = next((each for each in groups if each.searches[0].strategy == BASELINE), group)
    if baseline is group:
        return {}
    others = {search.seed: search for search in baseline.searches}
    values: dict[str, list[float]] = {}
    for search in group.searches:
        if (other := others.get(search.seed)) is None:
            continue
        children = min(len(search.rows), len(other.rows))
        own, theirs = figures(search, children, late), figures(other, children, late)
        for name in own.keys() & theirs.keys():
            values.setdefault(name, []).append(own[name] - theirs[name])
    return {name: _summary(np.array(each)) for name, each in values.items() if len(each) >= FEWEST}


def _summary(values: np.ndarray) -> Difference:
    generator = np.random.default_rng(derive(0, "paired"))
    means = values[generator.integers(0, len(values), (RESAMPLES, len(values)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Difference(float(values.mean()), float(low), float(high), len(values))
