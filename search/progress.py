"""What the user sees of a running search: a line in the terminal, and figures in the loggers."""

import heapq
import math
import statistics
from collections.abc import Sequence
from fractions import Fraction

from lightning.pytorch.loggers import Logger

from runtime.progress import Track, as_text
from search.estimate import Pace
from search.ledger.rows import ChildRow
from search.messages import Failure
from search.naming import CHILDREN, Naming
from search.snapshot import LATE


class Progress:
    """Figures of the children so far, which do not depend on the order in which those finished."""

    def __init__(
        self,
        loggers: Sequence[Logger],
        children: int,
        naming: Naming = CHILDREN,
        full_epochs: int | None = None,
    ):
        """children: of the whole search. naming: of the children. full_epochs: those of a child that goes
        to its end, where children may be stopped before; None: they may not."""
        self.done, self._naming, self._full_epochs = 0, naming, full_epochs
        self.pace = Pace(children)
        self._loggers, self._scored, self._best = loggers, 0, -math.inf
        self._total = Fraction()
        self._late: list[tuple[int, float]] = []  # a heap of number and reward
        self._log_probs: list[float] = []
        self._counts = {"duplicates": 0, "rejected": 0, "failed": 0}
        if full_epochs is not None:
            self._counts["stopped"] = 0

    def enter(self, row: ChildRow) -> None:
        """Counts a proposal."""
        rejected = row.failure is Failure.REJECTED
        self._counts["duplicates"] += row.original is not None
        self._counts["rejected"] += rejected
        self.pace.enter(row.cost, runs=row.original is None and not rejected)
        if row.log_prob is not None:
            self._log_probs = [*self._log_probs[1 - LATE :], row.log_prob]

    def add(self, row: ChildRow, seconds: float = 0.0) -> None:
        """Counts a child that is done. seconds: of its run, where its evaluator says none."""
        self.done += 1
        if row.original is None and row.failure is not Failure.REJECTED:
            self.pace.finish(row.cost, row.seconds or seconds)
        self._counts["failed"] += row.failure not in (None, Failure.REJECTED)
        if self._full_epochs is not None and row.original is None:
            self._counts["stopped"] += row.metrics.get("epochs", self._full_epochs) < self._full_epochs
        if row.reward is not None:
            self._scored += 1
            self._best = max(self._best, row.reward)
            self._total += Fraction(row.reward)
            heapq.heappush(self._late, (row.number, row.reward))
            if len(self._late) > LATE:
                heapq.heappop(self._late)

    def figures(self) -> dict[str, float]:
        """`best`, `mean` and `mean_last_100` reward, without any before the first; `entropy` of the policy.

        The entropy, in nats, is the mean of the negative log-probabilities of the LATE newest proposals, an
        estimate that needs no knowledge of the policy; there is none where proposals have no probability."""
        found: dict[str, float] = {}
        if self._scored:
            # The sum is exact: one of floats would round differently with the order of finishing.
            found |= {"best": self._best, "mean": float(self._total / self._scored)}
            late = statistics.fmean(reward for _, reward in sorted(self._late))
            found |= {f"mean_last_{LATE}": late}
        if self._log_probs:
            found["entropy"] = -statistics.fmean(self._log_probs)
        return found

    def counts(self) -> dict[str, float]:
        """How many `duplicates` were proposed, and how many children were `rejected`, have `failed`, or were
        `stopped` early, where they may be."""
        return dict(self._counts)

    def show(self, line: Track) -> None:
        """The children that are done by now, duplicates and all."""
        if fresh := self.done - line.done:
            figures = {name: value for name, value in self.figures().items() if name != "mean"}
            seen = {name: value for name, value in self._counts.items() if value}
            line.advance(fresh, as_text(figures | seen))

    def log(self, row: ChildRow) -> None:
        """row: a child that ran, and has been counted."""
        figures = self.figures() | self.counts()
        own = {} if row.reward is None else {"reward": row.reward}
        for logger in self._loggers:
            metrics = {"child": row.number, "seconds": row.seconds, **own, **figures}
            logger.log_metrics(metrics, step=self.done)

    def show_running(self, line: Track, number: int, epochs_done: float, epochs: int) -> None:
        """How far the child of that number is, beside the figures so far."""
        line.note(f"{self._naming.of(number)}, epoch {epochs_done:.1f}/{epochs}")
