"""How long a search will still take, from predicted costs and the real seconds of the children so far."""

import itertools
from collections.abc import Sequence


class Pace:
    """Adds up what children were predicted to cost and what they really took.

    Predicted costs are right up to a factor that depends on the machine; the children that have run tell it.
    Costs in microseconds, times in seconds.
    """

    def __init__(self, children: int):
        """children: of the whole search."""
        self.children = children
        self._entered, self._work, self._open, self._open_children = 0, 0, 0, 0
        self._cost, self._seconds = 0, 0.0
        self._guess: float | None = None

    def guess(self, factor: float) -> None:
        """Real seconds per predicted one, as measured before any child has run."""
        self._guess = factor

    def enter(self, cost: int, *, runs: bool) -> None:
        """Counts a proposal. runs: it needs a worker; duplicates and rejected cells need none."""
        self._entered += 1
        if runs:
            self._work += cost
            self._open += cost
            self._open_children += 1

    def finish(self, cost: int, seconds: float) -> None:
        """Counts the result of a child that ran for so long; 0 where that is unknown."""
        self._open -= cost
        self._open_children -= 1
        if seconds > 0:
            self._cost, self._seconds = self._cost + cost, self._seconds + seconds

    @property
    def left(self) -> int:
        """Children that are not done, those to be proposed included; duplicates among these count."""
        return max(0, self.children - self._entered) + self._open_children

    @property
    def factor(self) -> float | None:
        """Real seconds per predicted one; None where nothing is known."""
        return 1e6 * self._seconds / self._cost if self._cost and self._seconds else self._guess

    @property
    def seconds_per_child(self) -> float | None:
        """Of a proposal on average, duplicates included."""
        if not self._entered or self.factor is None:
            return None
        return self.factor * self._work / self._entered / 1e6

    def seconds_left(self, workers: int, running: Sequence[tuple[int, float]] = ()) -> float | None:
        """Wall time to the last child on `workers`; None where nothing is known.

        running: predicted cost of each running child, and the seconds that it has had."""
        if not self.left:
            return 0.0
        if self.factor is None or not self._entered:
            return None
        factor = self.factor / 1e6
        if cost := sum(cost for cost, _ in running):  # where they are late, the others will be
            factor = max(factor, sum(had for _, had in running) / cost)
        had = sum(min(had, factor * cost) for cost, had in running)
        future = max(0, self.children - self._entered) * self._work / self._entered
        return max(0.0, factor * (self._open + future) - had) / max(1, workers)


def duration(seconds: float) -> str:
    """A time in its two largest units: `3 d 4 h`, `2 h 5 min`, `3 min 20 s`, `12 s`, `less than a second`."""
    if seconds < 1:
        return "less than a second"
    seconds = round(seconds)
    units = [("d", 86400), ("h", 3600), ("min", 60), ("s", 1)]
    for (name, size), (smaller, part) in itertools.pairwise(units):
        if seconds >= size:
            whole, rest = divmod(round(seconds / part), size // part)
            return f"{whole} {name} {rest} {smaller}" if rest else f"{whole} {name}"
    return f"{seconds} s"


def estimated(seconds: float) -> str:
    """A time that is not known exactly: `about 12 s`, `less than a second`."""
    return duration(seconds) if seconds < 1 else f"about {duration(seconds)}"
