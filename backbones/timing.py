"""Times of several ways in one process, interleaved: what else the machine does falls on all of them."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple


class Quartiles(NamedTuple):
    """Of some values: a quarter of them lie below `lower`, a quarter above `upper`."""

    lower: float
    median: float
    upper: float


def quartiles(values: Sequence[float]) -> Quartiles:
    """Of at least one value, which is all three then."""
    if len(values) == 1:
        return Quartiles(*[values[0]] * 3)
    return Quartiles(*statistics.quantiles(values, n=4))


def interleaved(
    ways: Mapping[str, Callable[[], object]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
    wait: Callable[[], None] | None = None,
    warm_up: int = 1,
) -> dict[str, list[float]]:
    """Seconds of every way in every round, after `warm_up` rounds that do not count; who begins changes.

    wait: returns when the device has done what it was given.
    """
    names = list(ways)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(warm_up + rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            start = clock()
            ways[name]()
            if wait is not None:
                wait()
            if number >= warm_up:
                seconds[name].append(clock() - start)
    return seconds
