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
from functools import partial

from lightning.pytorch.loggers import Logger

from backbones.genotype import Genotype
from runtime.progress import track
from runtime.random import derive
from search.admission import Admission
from search.budget import Budget
from search.clock import VirtualClock
from search.executors.protocol import Executor
from search.ledger.rows import ChildRow
from search.ledger.writer import Ledger
from search.messages import FINAL_AT_ONCE, Failure, Result
from search.progress import Progress
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
        budget: Budget,
        loggers: Sequence[Logger] = (),
    ):
        """cost: predicted run time in microseconds. Continues from whatever the ledger holds."""
        self._ledger, self._strategy, self._executor = ledger, strategy, executor
        self._seed, self._budget = seed, budget
        self._admission, self._progress = Admission(cost), Progress(loggers)
        self._clock, self._group = VirtualClock(window), 0
        self.rows: list[ChildRow] = []
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
            self._admission.add(row)
            self._add(row)
        if (state := self._ledger.state()) is not None:
            self._strategy.load_state_dict(state)

    def _add(self, row: ChildRow) -> None:
        self.rows.append(row)
        self._clock.occupy(row.number, row.finish)
        if row.status == "done":
            self._progress.add(row)
        elif row.original is None:
            self._queue.append(row)

    def run(self) -> None:
        """Runs until the budget is spent. An interrupt leaves the children that were running queued."""
        budget, done = self._budget.config, self._progress.done
        self._ledger.save(events={"started": {"done": done, "budget": asdict(budget)}})
        try:
            with track(budget.children, "search", done) as line:
                while True:
                    self._propose()
                    self._progress.show(line)
                    self._submit()
                    if not self._running:
                        return
                    results = self._executor.poll(partial(self._progress.show_running, line))
                    for result in results:
                        self._take(result)
                    if not results:
                        time.sleep(POLL_SECONDS)
        finally:
            for number, row in self._running.items():
                self._executor.cancel(number)
                self._requeue(row, "interrupted", uncount=True)
            self._ledger.save(facts={"seconds": self._budget.seconds()})

    def _propose(self) -> None:
        """Enters every group whose virtual start has come, one transaction each."""
        children = self._budget.config.children
        while (left := children - len(self.rows)) > 0 and not self._budget.out_of_time():
            consumed: list[ChildRow] = []
            # A group that a smaller budget cut short goes on where it was, and nothing is observed.
            if not self._clock.free:
                consumed = [self.rows[number] for number in self._clock.due()]
                if any(row.status != "done" for row in consumed):
                    return
                self._clock.advance()
                self._group += 1
            self._strategy.observe([row.consume() for row in consumed])
            pending = [self.rows[number].proposal for number in self._clock.busy()]
            proposals = self._strategy.propose(min(self._clock.free, left), pending)
            entered = [self._admission.enter(each, self._group, self._clock.now) for each in proposals]
            for row in entered:
                self._add(row)
            self._ledger.step([*consumed, *entered], self._strategy.state_dict(), self._group)

    def _submit(self) -> None:
        while self._queue and self._executor.capacity() and not self._budget.out_of_time():
            row = self._queue.popleft()
            self._budget.check_attempts(row)
            task = row.begin(derive(self._seed, "child", row.cell_key))
            # Written before it starts, so that an attempt which takes the process along counts, too.
            self._ledger.save([row])
            self._running[row.number] = row
            self._executor.submit(task)

    def _take(self, result: Result) -> None:
        """Records a final result, or sends the child back, of which the strategy learns nothing."""
        row = self._running.pop(result.proposal.number)
        lost = result.failure is Failure.HOST_LOST
        if result.failure and result.failure not in FINAL_AT_ONCE and (lost or not row.alone):
            self._requeue(row, f"{result.failure}: {result.detail}", alone=not lost)
            self._queue.appendleft(row)
            return
        finished = [row, *self._admission.duplicates(row)]
        for each in finished:
            each.finish_with(result)
            self._progress.add(each)
        self._ledger.save(finished, facts={"seconds": self._budget.seconds()})
        self._progress.log(row)
        self._budget.count_failure(row)

    def _requeue(self, row: ChildRow, why: str, *, alone: bool = False, uncount: bool = False) -> None:
        row.requeue(alone=alone, uncount=uncount)
        event = {"child": row.number, "alone": row.alone, "why": why}
        self._ledger.save([row], events={"requeued": event})
        log.info("child %d goes back into the queue: %s", row.number, why)
