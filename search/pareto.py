"""Which children no other child beats in both accuracy and cost."""

import math
from collections.abc import Iterable, Sequence

Points = Sequence[tuple[float, float]]
"""Accuracy and cost of each child. A point is beaten by one with at least its accuracy and at most its cost,
one of the two better."""


def pareto_front(points: Points, among: Iterable[int] | None = None) -> list[int]:
    """The places in `points` that no other beats, cheapest first; equal points are all on the front.

    among: places to look at; None: all."""
    places = range(len(points)) if among is None else among
    front: list[int] = []
    best = -math.inf, math.inf
    for i in sorted(places, key=lambda i: (points[i][1], -points[i][0], i)):
        if points[i][0] > best[0] or points[i] == best:
            front.append(i)
            best = points[i]
    return front


def on_front(points: Sequence[tuple[float | None, float | None]]) -> list[bool]:
    """Whether each point is on the Pareto front; one that lacks its accuracy or cost is not."""
    known = [(i, a, c) for i, (a, c) in enumerate(points) if a is not None and c is not None]
    front = {known[place][0] for place in pareto_front([(a, c) for _, a, c in known])}
    return [i in front for i in range(len(points))]


def pareto_ranks(points: Points) -> list[int]:
    """Rank of each point: 0 on the Pareto front, 1 on the front without those, and so on.

    Source: non-dominated sorting of NSGA-II (Deb et al. 2002)."""
    ranks = [0] * len(points)
    left, rank = set(range(len(points))), 0
    while left:
        for i in (front := pareto_front(points, left)):
            ranks[i] = rank
        left -= set(front)
        rank += 1
    return ranks
