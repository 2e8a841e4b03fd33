"""The loop of a search: proposes, has children run, learns.

What is proposed is a pure function of seed, configuration and recorded results. Workers, their speed and any
crash change when things happen, never what. A virtual clock says who waits for whom: `window` virtual workers
take as long for a child as was predicted; a proposal waits for the children that are virtually finished when
it virtually starts, and for no other.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict

from lightning.pytorch.loggers import Logger

from backbones.genotype import Genotype
from runtime.progress import Track, track
from runtime.random import derive
from search.clock import VirtualClock
from search.config import BudgetConfig
from search.executors.protocol import Executor
from search.ledger.rows import ChildRow
from search.ledger.writer import Ledger
from search.messages import FINAL_AT_ONCE, ChildTask, Failure, Proposal, Result, SearchPaused
from search.strategies.protocol import Strategy

POLL_SECONDS = 0.05

log = logging.getLogger(__name__)


class Search:
    """The state of a running search: what the ledger holds, the clock that follows from it, the strategy."""

    def __init__(
        self,
        ledger: Ledger,
        strategy: Strategy,
        executor: Executor,
        cost: Callable[[Genotype], int],
        *,
        seed: int,
        window: int,
        budget: BudgetConfig,
        loggers: Sequence[Logger] = (),
    ):
        """cost: predicted run time in microseconds. Goes on from whatever the ledger holds."""
        self._ledger, self._strategy, self._executor, self._cost = ledger, strategy, executor, cost
        self._seed, self._budget, self._loggers = seed, budget, loggers
        self._clock, self._group = VirtualClock(window), 0
        self._spent, self._begun = float(ledger.fact("seconds") or 0), time.monotonic()
        self._failures_in_a_row = 0
        self.rows: list[ChildRow] = []
        self._originals: dict[str, ChildRow] = {}
        self._waiting: dict[int, list[ChildRow]] = {}  # duplicates, by the original that is not done
        self._queue: deque[ChildRow] = deque()
        self._running: dict[int, ChildRow] = {}
        self._recover()
        if executor.capacity() > window / 2:
            log.warning(
                "window = %d, below twice the %d workers: some will idle", window, executor.capacity()
            )

    def _recover(self) -> None:
        for row in self._ledger.rows():
            if row.proposal_group != self._group:
                self._clock.advance()
                self._group = row.proposal_group
            if row.status == "running":
                self._requeue(row, "the process that ran it ended")
            self._add(row)
        if (state := self._ledger.state()) is not None:
            self._strategy.load_state_dict(state)

    def _add(self, row: ChildRow) -> None:
        self.rows.append(row)
        self._clock.occupy(row.number, row.finish)
        self._originals.setdefault(row.cell_key, row)
        if row.status == "queued":
            if row.original is None:
                self._queue.append(row)
            else:
                self._waiting.setdefault(row.original, []).append(row)

    def run(self) -> None:
        """Until the budget is spent and nothing runs. An interrupt leaves the running children queued."""
        done = self._done()
        self._ledger.note("started", {"done": done, "budget": asdict(self._budget)})
        try:
            with track(self._budget.children, "search", done) as progress:
                while True:
                    self._propose()
                    self._submit()
                    if not self._running:
                        return
                    results = self._executor.poll()
                    for result in results:
                        self._take(result, progress)
                    if not results:
                        time.sleep(POLL_SECONDS)
        finally:
            for number, row in self._running.items():
                self._executor.cancel(number)
                self._requeue(row, "interrupted", uncount=True)
            self._ledger.remember({"seconds": self.seconds()})

    def seconds(self) -> float:
        """Wall time of the search over all sittings."""
        return self._spent + time.monotonic() - self._begun

    def _done(self) -> int:
        return sum(row.status == "done" for row in self.rows)

    def _out_of_time(self) -> bool:
        return self._budget.hours is not None and self.seconds() >= 3600 * self._budget.hours

    def _propose(self) -> None:
        """Enters every group whose virtual start has come, one transaction each."""
        while (left := self._budget.children - len(self.rows)) > 0 and not self._out_of_time():
            consumed: list[int] = []
            # A group that a smaller budget cut short goes on where it was, and nothing is observed.
            if not self._clock.free:
                consumed = self._clock.due()
                if any(self.rows[number].status != "done" for number in consumed):
                    return
                self._clock.advance()
                self._group += 1
            self._strategy.observe([self.rows[number].result for number in consumed])
            for number in consumed:
                self.rows[number].observed = True
            pending = [self.rows[number].proposal for number in self._clock.busy()]
            proposals = self._strategy.propose(min(self._clock.free, left), pending)
            entered = [self._enter(proposal) for proposal in proposals]
            self._ledger.step(consumed, self._strategy.state_dict(), entered, self._group)

    def _enter(self, proposal: Proposal) -> ChildRow:
        """The row of a new child, or of a duplicate: that one waits for its original and needs no worker."""
        key, start = proposal.genotype.key, self._clock.now
        original = self._originals.get(key)
        finish = start + self._cost(proposal.genotype) if original is None else max(start, original.finish)
        row = ChildRow(
            proposal.number,
            self._group,
            proposal.genotype,
            key,
            proposal.decisions,
            proposal.log_prob,
            finish - start,
            start,
            finish,
            None if original is None else original.number,
        )
        if original is not None and original.status == "done":
            row.finish_with(original.result)
        self._add(row)
        return row

    def _submit(self) -> None:
        while self._queue and self._executor.capacity() and not self._out_of_time():
            row = self._queue.popleft()
            if row.attempts >= self._budget.max_attempts:
                raise SearchPaused(
                    f"child {row.number} was lost {row.attempts} times with its host or process; when that "
                    f"is cured, start again with budget.max_attempts above {self._budget.max_attempts}"
                )
            seed = derive(self._seed, "child", row.cell_key)
            self._ledger.begin(row.number)
            self._running[row.number] = row
            self._executor.submit(ChildTask(row.proposal, seed, row.attempts, row.alone))
            row.attempts, row.status = row.attempts + 1, "running"

    def _take(self, result: Result, progress: Track) -> None:
        """Records a final result, or sends the child back, of which the strategy learns nothing."""
        row = self._running.pop(result.proposal.number)
        judged = result.failure in FINAL_AT_ONCE or (row.alone and result.failure is not Failure.HOST_LOST)
        if result.failure is not None and not judged:
            alone = row.alone or result.failure is not Failure.HOST_LOST
            self._requeue(row, f"{result.failure}: {result.detail}", alone=alone)
            self._queue.appendleft(row)
            return
        finished = [row, *self._waiting.pop(row.number, [])]
        for each in finished:
            each.finish_with(result)
        self._ledger.record(finished, {"seconds": self.seconds()})
        self._report(row, len(finished), progress)
        self._failures_in_a_row = self._failures_in_a_row + 1 if result.failure else 0
        if self._failures_in_a_row >= self._budget.failures_in_a_row:
            raise SearchPaused(
                f"{self._failures_in_a_row} children in a row failed, the last one, child {row.number}, with "
                f"{result.failure}: {result.detail}"
            )

    def _requeue(self, row: ChildRow, why: str, *, alone: bool | None = None, uncount: bool = False) -> None:
        row.status, row.alone = "queued", row.alone if alone is None else alone
        row.attempts -= int(uncount)
        self._ledger.requeue(row.number, alone=row.alone, uncount=uncount, why=why)
        log.info("child %d goes back into the queue: %s", row.number, why)

    def _report(self, row: ChildRow, finished: int, progress: Track) -> None:
        rewards = [each.reward for each in self.rows if each.reward is not None]
        figures = {"best": max(rewards), "mean": sum(rewards) / len(rewards)} if rewards else {}
        progress.advance(finished, **figures)
        own = {} if row.reward is None else {"reward": row.reward}
        done = self._done()
        for logger in self._loggers:
            logger.log_metrics({"child": row.number, "seconds": row.seconds, **own, **figures}, step=done)
