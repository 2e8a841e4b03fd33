"""How far two scorings of the same cells agree: what a short training says about a longer one."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from runtime.random import derive

RESAMPLES = 10_000
FEWEST = 8
"""Cells for an interval: draws from fewer repeat a handful of orders, and say nothing of others."""


class Agreement(NamedTuple):
    """Kendall's tau-b of two scorings, in [-1, 1], and its 95 % interval; the mean over pairs of scorings.

    The interval is a percentile bootstrap over the cells; None below FEWEST of them. All three are None where
    a scoring is constant, which leaves them undefined. spread: standard deviation of the differences between
    the scorings, divided by the root of 2: the noise of one score where both measure the same; root mean
    square over the pairs."""

    tau: float | None
    low: float | None
    high: float | None
    spread: float


def kendall_tau(first: ArrayLike, second: ArrayLike) -> float:
    """Kendall's tau-b, which allows ties; NaN where one of the two is constant."""
    a = np.sign(np.subtract.outer(first, first))
    b = np.sign(np.subtract.outer(second, second))
    scale = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / scale if scale else float("nan")


def agreement(pairs: Sequence[tuple[Sequence[float], Sequence[float]]], seed: int) -> Agreement:
    """pairs: two scorings `[n]` each, of the same n cells in all, n >= 2. seed: of the bootstrap."""
    scores = np.asarray(pairs, float)  # [pairs, 2, n]
    cells = scores.shape[2]
    spread = float(np.sqrt((np.diff(scores, axis=1).var(axis=2, ddof=1) / 2).mean()))

    def tau_of(chosen: np.ndarray) -> float:
        return float(np.mean([kendall_tau(x[chosen], y[chosen]) for x, y in scores]))

    tau = tau_of(np.arange(cells))
    if np.isnan(tau):
        return Agreement(None, None, None, spread)
    if cells < FEWEST:
        return Agreement(tau, None, None, spread)
    generator = np.random.default_rng(derive(seed, "bootstrap"))
    draws = generator.integers(0, cells, (RESAMPLES, cells))
    taus = np.array([tau_of(draw) for draw in draws])
    low, high = np.nanpercentile(taus, [2.5, 97.5])  # a draw of equal scores says nothing
    return Agreement(tau, float(low), float(high), spread)
