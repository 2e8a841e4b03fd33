"""Which children no other child beats in both accuracy and cost."""

from collections.abc import Sequence


def pareto_ranks(points: Sequence[tuple[float, float]]) -> list[int]:
    """Rank of each (accuracy, cost): 0 on the Pareto front, 1 on the front without those, and so on.

    A point is beaten by one with at least its accuracy and at most its cost, one of the two better.
    Source: non-dominated sorting of NSGA-II (Deb et al. 2002).
    """
    ranks = [0] * len(points)
    left = sorted(range(len(points)), key=lambda i: (-points[i][0], points[i][1]))
    rank = 0
    while left:
        best: float | None = None
        front: list[int] = []
        for i in left:
            equal = bool(front) and points[i] == points[front[-1]]
            if best is None or points[i][1] < best or equal:
                best = points[i][1]
                front.append(i)
        for i in front:
            ranks[i] = rank
        members = set(front)
        left = [i for i in left if i not in members]
        rank += 1
    return ranks
