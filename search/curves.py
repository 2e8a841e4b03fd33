"""The numbers of a report's charts, from the children of searches. Nothing here draws."""

import bisect
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from search.history import Group, History
from search.ledger.rows import ChildRow
from search.messages import COUNTS
from search.pareto import pareto_front
from search.space import COMBINATION, OPERATION, STATE, Space

TOP = (1, 5, 25)
"""Best unique cells whose mean is shown. Source: 1707.07012, figure 6."""
PLACES = 120
"""Points of a curve."""
KIND_NAMES = {STATE: "inputs", OPERATION: "operations", COMBINATION: "combinations"}
NO_COST = ("accuracy", "epochs")
"""Metrics of our own training that cost nothing at run time."""

Curve = list[tuple[float, float]]


@dataclass(frozen=True)
class Band:
    """Mean of several searches, and the lowest and the highest of them, at the same xs."""

    mean: Curve
    low: Curve
    high: Curve


def top_mean(search: History, count: int, by: Callable[[ChildRow], float]) -> Curve:
    """Mean reward of the `count` best unique cells so far, a point for each child that changed it.

    by: what a child adds to x. The curve begins with the first `count` cells."""
    best: list[float] = []
    curve: Curve = []
    x = 0.0
    for row in search.rows:
        x += by(row)
        if row.reward is None or row.original is not None:
            continue
        bisect.insort(best, row.reward)
        del best[:-count]
        if len(best) == count and (not curve or sum(best) / count != curve[-1][1]):
            curve.append((x, sum(best) / count))
    if curve and x > curve[-1][0]:
        curve.append((x, curve[-1][1]))
    return curve


def one_child(row: ChildRow) -> float:
    return 1.0


def cpu_time(row: ChildRow) -> float:
    """Seconds of a child; wall time where the CPU time is unknown."""
    return row.cpu_seconds or row.seconds


def band(curves: Sequence[Curve]) -> Band | None:
    """Over the xs that all curves cover; each keeps its value until its next point. None without any."""
    curves = [curve for curve in curves if curve]
    if not curves:
        return None
    low, high = max(curve[0][0] for curve in curves), min(curve[-1][0] for curve in curves)
    if low > high:
        return None
    xs = np.unique(np.linspace(low, high, PLACES)) if high > low else np.array([low])
    values = np.array([_at(curve, xs) for curve in curves])
    return Band(*(list(zip(xs.tolist(), f(values, axis=0).tolist(), strict=True)) for f in _SUMMARIES))


_SUMMARIES = (np.mean, np.min, np.max)


def _at(curve: Curve, xs: np.ndarray) -> np.ndarray:
    places, values = np.array(curve).T
    return values[np.searchsorted(places, xs * (1 + 1e-12), side="right") - 1]


def sliding_mean(rows: Sequence[ChildRow], window: int) -> Curve:
    """Mean reward of the `window` newest children that have one, by number."""
    scored = [(row.number, row.reward) for row in rows if row.reward is not None]
    sums = np.concatenate([[0.0], np.cumsum([reward for _, reward in scored])])
    ends = range(min(window, len(scored)), len(scored) + 1) if scored else []
    points = [
        (float(scored[i - 1][0]), float(sums[i] - sums[max(0, i - window)]) / min(i, window)) for i in ends
    ]
    return thinned(points, 4 * PLACES)


def thinned(points: Curve, most: int) -> Curve:
    """At most so many of the points, evenly, with both ends."""
    if len(points) <= most:
        return points
    chosen = np.linspace(0, len(points) - 1, most).round().astype(int)
    return [points[i] for i in np.unique(chosen)]


def window_of(children: int) -> int:
    """Children in a sliding window: a tenth of all, in 20..500."""
    return max(20, min(500, children // 10))


def entropies(search: History, space: Space, window: int) -> dict[str, Curve]:
    """By kind of decision: how evenly the options were chosen in each window, 1 being uniform.

    The entropy of what was really proposed, at each of the decisions, divided by the logarithm of its number
    of options, mean over those of the kind. It is that of no policy, so that it is the same measure for every
    strategy; small windows make it a little lower.
    """
    decisions = np.array([row.decisions for row in search.rows])
    kinds, sizes = np.array(space.kinds), np.array(space.sizes)
    curves: dict[str, Curve] = {}
    if len(decisions) < window:
        return {}
    ends = _ends(window, len(decisions))
    for kind, name in KIND_NAMES.items():
        steps = np.flatnonzero((kinds == kind) & (sizes > 1))
        if len(steps):
            values = [
                np.mean([_evenness(decisions[end - window : end, step], sizes[step]) for step in steps])
                for end in ends
            ]
            curves[name] = [(float(end), float(value)) for end, value in zip(ends, values, strict=True)]
    return curves


def _ends(window: int, children: int) -> np.ndarray:
    """Where at most PLACES windows end, evenly, the last one at the last child."""
    return np.unique(np.linspace(window, children, min(PLACES, children - window + 1)).astype(int))


def _evenness(chosen: np.ndarray, size: int) -> float:
    shares = np.bincount(chosen, minlength=size) / len(chosen)
    shares = shares[shares > 0]
    return float(-(shares * np.log(shares)).sum() / math.log(size)) + 0.0


def operation_shares(group: Group, window: int) -> dict[str, Curve]:
    """Share of each operation among those of the proposed cells, in sliding windows."""
    return _shares(group, window, lambda row: [operation for _, operation in _operands(row)])


INPUTS = ("h_i", "h_i-1", "a block")


def input_shares(group: Group, window: int) -> dict[str, Curve]:
    """Share of the blocks' INPUTS that are h_i, h_i-1, or another block."""
    return _shares(group, window, lambda row: [INPUTS[min(state, 2)] for state, _ in _operands(row)])


def _operands(row: ChildRow) -> list[tuple[int, str]]:
    blocks = (*row.genotype.normal.blocks, *row.genotype.reduction.blocks)
    return [each for b in blocks for each in ((b.left, b.left_op), (b.right, b.right_op))]


def _shares(group: Group, window: int, things: Callable[[ChildRow], list[str]]) -> dict[str, Curve]:
    """By name, the most frequent at the end first; searches of a group are pooled by child number."""
    children = min((len(search.rows) for search in group.searches), default=0)
    if children < window:
        return {}
    counts = [Counter[str]() for _ in range(children)]
    for search in group.searches:
        for place, row in enumerate(search.rows[:children]):
            counts[place].update(things(row))
    names = sorted({name for each in counts for name in each})
    table = np.array([[each[name] for name in names] for each in counts])
    sums = np.concatenate([np.zeros((1, len(names))), np.cumsum(table, axis=0)])
    ends = _ends(window, children)
    shares = sums[ends] - sums[ends - window]
    shares /= shares.sum(axis=1, keepdims=True)
    order = np.argsort(-shares[-1], kind="stable")
    return {
        names[i]: list(zip(ends.astype(float).tolist(), shares[:, i].tolist(), strict=True)) for i in order
    }


def costs_of(searches: Sequence[History]) -> list[str]:
    """What accuracy can be traded for: counted costs, and every metric that an evaluator recorded."""
    rows = [row for search in searches for row in search.unique]
    counted = [name for name in COUNTS if any(getattr(row, name) for row in rows)]
    metrics = sorted({name for row in rows for name in row.metrics} - set(NO_COST))
    return [*counted, *metrics]


def front_of(rows: Sequence[ChildRow], cost: str) -> list[ChildRow]:
    """Those that no other beats in accuracy and cost, cheapest first; of equal ones the lowest number.

    Children whose cost or accuracy is unknown are left out."""
    known = [row for row in rows if row.accuracy is not None and cost in row.costs]
    known.sort(key=lambda row: row.number)
    points = [(row.accuracy or 0.0, row.costs[cost]) for row in known]
    unique: dict[tuple[float, float], ChildRow] = {}
    for i in pareto_front(points):
        unique.setdefault(points[i], known[i])
    return list(unique.values())
