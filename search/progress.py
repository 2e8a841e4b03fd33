"""What the user sees of a running search: a line in the terminal, and figures in the loggers."""

import math
from collections.abc import Sequence
from fractions import Fraction

from lightning.pytorch.loggers import Logger

from runtime.progress import Track, as_text
from search.ledger.rows import ChildRow


class Progress:
    """How many children are done, and the best and mean reward among them."""

    def __init__(self, loggers: Sequence[Logger]):
        self.done = 0
        self._loggers, self._scored, self._best = loggers, 0, -math.inf
        self._total = Fraction()

    def add(self, row: ChildRow) -> None:
        """Counts a child that is done."""
        self.done += 1
        if row.reward is not None:
            self._scored += 1
            self._best = max(self._best, row.reward)
            self._total += Fraction(row.reward)

    def figures(self) -> dict[str, float]:
        """`best` and `mean` reward; empty before the first reward."""
        # The sum is exact: one of floats would round differently with the order of finishing.
        return {"best": self._best, "mean": float(self._total / self._scored)} if self._scored else {}

    def show(self, line: Track) -> None:
        """The children that are done by now, duplicates and all."""
        if fresh := self.done - line.done:
            line.advance(fresh, as_text(self.figures()))

    def log(self, row: ChildRow) -> None:
        """row: a child that ran, and has been counted."""
        figures = self.figures()
        own = {} if row.reward is None else {"reward": row.reward}
        for logger in self._loggers:
            metrics = {"child": row.number, "seconds": row.seconds, **own, **figures}
            logger.log_metrics(metrics, step=self.done)

    def show_running(self, line: Track, number: int, epochs_done: float, epochs: int) -> None:
        """How far the child of that number is, beside the figures so far."""
        line.note(f"child {number}, epoch {epochs_done:.1f}/{epochs}")
