"""Times of several programs, taken in turns on a machine on which others run, too."""

import math
import time
from collections.abc import Callable, Sequence

LEAST, MOST = 3, 15
"""Passes over each program."""
WITHIN = 0.15
"""So much may the `LEAST` fastest passes differ, relative to the fastest; else further passes follow."""
PASS_SECONDS = 0.2
"""A pass runs a program at least so long, and at least once."""


def interleaved(programs: Sequence[Callable[[], object]], clock: Callable[[], float]) -> list[list[float]]:
    """For each program its passes, in milliseconds: the fastest run of each pass, in the order taken.

    clock: seconds; see `clock_of`.

    Each program runs once untimed. A pass goes over all programs, so that a disturbance falls on all of them;
    those whose times agree leave. What interrupts a process only ever adds time, hence the fastest."""
    repeats = []
    for program in programs:
        program()
        start = clock()
        program()
        once = clock() - start
        repeats.append(max(1, math.ceil(PASS_SECONDS / once)) if once > 0 else 1)
    passes: list[list[float]] = [[] for _ in programs]
    for _ in range(MOST):
        for i, program in enumerate(programs):
            if not settled(passes[i]):
                passes[i].append(_fastest(program, repeats[i], clock))
        if all(map(settled, passes)):
            break
    return passes


def clock_of(threads: int) -> Callable[[], float]:
    """Seconds of the process's CPU time for programs of one thread, else of the wall.

    On an idle machine one thread takes as much of both. On a busy one it waits for its core, at times longer
    than it runs; threads that wait for each other use CPU time as well."""
    return time.process_time if threads == 1 else time.perf_counter


def settled(passes: Sequence[float]) -> bool:
    """Whether the fastest passes agree."""
    if len(passes) < LEAST:
        return False
    fastest, *_, last = sorted(passes)[:LEAST]
    return last <= (1 + WITHIN) * fastest


def _fastest(program: Callable[[], object], repeats: int, clock: Callable[[], float]) -> float:
    times = []
    for _ in range(repeats):
        start = clock()
        program()
        times.append(clock() - start)
    return 1000 * min(times)
