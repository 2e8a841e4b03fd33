"""How far two scorings of the same cells agree: what a short training says about a longer one."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from runtime.random import derive

RESAMPLES = 2_000


class Agreement(NamedTuple):
    """Kendall's tau-b of two scorings, in [-1, 1], and the ends of its 95 % interval.

    The interval is a percentile bootstrap over the cells. All three are None where a scoring is constant,
    which leaves them undefined. spread: standard deviation of the differences between the scorings, divided
    by the root of 2: the noise of one score where both measure the same."""

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


def agreement(first: Sequence[float], second: Sequence[float], seed: int) -> Agreement:
    """first, second: scores `[n]` of the same n cells, n >= 2. seed: of the bootstrap."""
    x, y = np.asarray(first, float), np.asarray(second, float)
    spread = float(np.std(x - y, ddof=1) / np.sqrt(2))
    tau = kendall_tau(x, y)
    if np.isnan(tau):
        return Agreement(None, None, None, spread)
    generator = np.random.default_rng(derive(seed, "bootstrap"))
    draws = generator.integers(0, len(x), (RESAMPLES, len(x)))
    taus = np.array([kendall_tau(x[draw], y[draw]) for draw in draws])
    low, high = np.nanpercentile(taus, [2.5, 97.5])  # a draw of equal scores says nothing
    return Agreement(tau, float(low), float(high), spread)
