"""The loop of a search: proposes, has children run, learns.

What is proposed is a pure function of seed, configuration and recorded results. Workers, their speed and any
crash change when things happen, never what. A virtual clock says who waits for whom: `window` virtual workers
take as long for a child as was predicted; a proposal waits for the children that are virtually finished when
it virtually starts, and for no other.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from lightning.pytorch.loggers import Logger

from backbones.ranges import under
from backbones.words import printable, told
from runtime.interrupts import interrupts_deferred
from runtime.progress import track
from runtime.random import derive
from search.admission import Admission
from search.budget import Budget
from search.clock import VirtualClock
from search.config import ObjectiveConfig
from search.estimate import Pace
from search.executors.protocol import Executor
from search.ledger.rows import ENDED, SPENT, ChildRow
from search.ledger.writer import Ledger
from search.messages import FINAL_AT_ONCE, ChildTask, Failure, Proposal, Result, SearchPaused
from search.naming import CHILDREN, Naming
from search.objective import weighed
from search.progress import Progress
from search.strategies.protocol import Strategy

POLL_SECONDS = 0.05
LONGEST_WHY = 2_000
"""Characters of an error that is kept as the reason of an end."""
NO_OBJECTIVE = ObjectiveConfig()

log = logging.getLogger(__name__)


class Search:
    """The state of a running search: what the ledger holds, the clock that follows from it, the strategy."""

    def __init__(
        self,
        ledger: Ledger,
        strategy: Strategy,
        executor: Executor,
        admission: Admission,
        *,
        seed: int,
        window: int,
        budget: Budget,
        objective: ObjectiveConfig = NO_OBJECTIVE,
        loggers: Sequence[Logger] = (),
        naming: Naming = CHILDREN,
        full_epochs: int | None = None,
    ):
        """Continues from whatever the ledger holds. full_epochs: as for `Progress`."""
        self._ledger, self._strategy, self._executor = ledger, strategy, executor
        self._seed, self._budget, self._objective = seed, budget, objective
        self._admission, self._naming = admission, naming
        self._progress = Progress(loggers, budget.config.children, naming, full_epochs)
        self._clock, self._group = VirtualClock(window), 0
        self.rows: list[ChildRow] = []
        self._queue: deque[ChildRow] = deque()
        self._running: dict[int, ChildRow] = {}
        self._pending: dict[int, Proposal] = {}  # proposed and not virtually finished, by number
        self._begun: dict[int, float] = {}  # seconds from any origin, of those that this process began
        self._recover()

    def _recover(self) -> None:
        rows = self._ledger.rows()
        left = {row.number: row for row in rows if row.status == "running"}
        adopted = self._executor.adopt([self._task(row) for row in left.values()])
        # Where another process ran the children, the driver's death is no attempt of theirs.
        uncount = not self._ledger.fact("dies_with_driver")
        lost = [row for number, row in left.items() if number not in adopted]
        self._requeue([(row, "the process that ran it ended", {"uncount": uncount}) for row in lost])
        self._running = {number: left[number] for number in sorted(adopted)}
        for row in rows:
            if row.proposal_group != self._group:
                self._advance()
                self._group = row.proposal_group
            self._admission.add(row)
            self._add(row)
        if (state := self._ledger.state()) is not None:
            with under("strategy"):
                self._strategy.load_state_dict(state)
        elif rows:  # each was written with a state
            raise ValueError(
                "the ledger holds children but no state of the strategy, as one that search.share wrote: "
                "it can be read, not continued"
            )
        self._ledger.save(facts={"dies_with_driver": self._executor.dies_with_driver})

    def _advance(self) -> None:
        for number in self._clock.advance():
            del self._pending[number]

    def _add(self, row: ChildRow) -> None:
        self.rows.append(row)
        self._clock.occupy(row.number, row.finish)
        self._pending[row.number] = row.proposal
        self._progress.enter(row)
        if row.status == "done":
            self._progress.add(row)
        elif row.original is None and row.status == "queued":
            self._queue.append(row)

    def _task(self, row: ChildRow) -> ChildTask:
        """The task of the attempt that runs, or else of the next one."""
        attempt = row.attempts - (row.status == "running")
        return ChildTask(row.proposal, derive(self._seed, "child", row.cell_key), attempt, row.alone)

    def run(self, announce: Callable[[Sequence[ChildRow], Pace, int], None] | None = None) -> None:
        """Runs until the budget is spent. Ctrl-C leaves the children that were running queued.

        announce: told once, before the first child, which children wait, the pace, and how many may run.
        """
        budget, done = self._budget.config, self._progress.done
        # Until it is known why this run ended, a reader takes it for killed.
        started = ("started", {"done": done, "budget": asdict(budget)})
        self._ledger.save(facts={ENDED: None}, events=[started])
        why = SPENT
        try:
            self._propose()
            if announce is not None and self._queue:
                announce(self._queue, self._progress.pace, self._workers())
            with track(budget.children, self._naming.title, done, seconds_left=self._seconds_left) as line:
                while True:
                    self._propose()
                    self._progress.show(line)
                    with interrupts_deferred():
                        self._submit()
                    if not self._running and (not self._queue or self._budget.out_of_time()):
                        return
                    if results := self._executor.poll(partial(self._progress.show_running, line)):
                        with interrupts_deferred():
                            self._take(results)
                    else:
                        time.sleep(POLL_SECONDS)
        except BaseException as error:
            why = _why(error)
            raise
        finally:
            with interrupts_deferred():
                for number in self._running:
                    self._executor.cancel(number)
                self._requeue([(row, "interrupted", {"uncount": True}) for row in self._running.values()])
                self._ledger.save(facts={"seconds": self._budget.seconds(), ENDED: why})

    def _workers(self) -> int:
        return max(1, len(self._running) + self._executor.capacity())

    def _seconds_left(self) -> float | None:
        """To the end of the budget, as estimated."""
        now = time.monotonic()
        running = [(row.cost, now - self._begun.get(n, now)) for n, row in self._running.items()]
        left = self._progress.pace.seconds_left(self._workers(), running)
        if left is None or self._budget.config.hours is None:
            return left
        return min(left, max(0.0, 3600 * self._budget.config.hours - self._budget.seconds()))

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
                self._advance()
                self._group += 1
            self._strategy.observe([row.consume() for row in consumed])
            pending = list(self._pending.values())
            proposals = self._strategy.propose(min(self._clock.free, left), pending)
            entered = [self._admission.enter(each, self._group, self._clock.now) for each in proposals]
            for row in entered:
                self._add(row)
            self._ledger.step([*consumed, *entered], self._strategy.state_dict(), self._group)
            self._budget.check_rejections(self._admission.rejected_in_a_row)

    def _submit(self) -> None:
        while self._queue and self._executor.capacity() and not self._budget.out_of_time():
            row = self._queue[0]
            self._budget.check_attempts(row)
            self._queue.popleft()
            task = self._task(row)
            row.begin()
            # Written before it starts, so that an attempt which takes the process along counts, too.
            self._ledger.save([row], begun=[row.number])
            self._running[row.number], self._begun[row.number] = row, time.monotonic()
            self._executor.submit(task)

    def _take(self, results: Sequence[Result]) -> None:
        """Records what one poll gave, all of it in one transaction, before anything of it is judged.

        A result is final, or sends the child back, of which the strategy learns nothing.
        """
        ran, changed, events, ended = [], [], [], []
        for result in results:
            row = self._running.pop(result.proposal.number)
            ended.append((row.number, result.failure or "done", result.site))
            lost = result.failure is Failure.HOST_LOST
            if result.failure and result.failure not in FINAL_AT_ONCE and (lost or not row.alone):
                events.append(self._send_back(row, f"{result.failure}: {result.detail}", alone=not lost))
                self._queue.appendleft(row)
                changed.append(row)
                continue
            result = weighed(result, row, self._objective)
            ran.append(row)
            for each in (row, *self._admission.duplicates(row)):
                each.finish_with(result)
                changed.append(each)
        self._ledger.save(changed, facts={"seconds": self._budget.seconds()}, events=events, ended=ended)
        now = time.monotonic()
        for row in changed:
            took = now - self._begun.pop(row.number, now)
            if row.status == "done":
                self._progress.add(row, took)
        for row in ran:
            self._progress.log(row)
            self._budget.count_failure(row)

    def _requeue(self, lost: Sequence[tuple[ChildRow, str, Mapping[str, bool]]]) -> None:
        if not lost:
            return
        events = [self._send_back(row, why, **how) for row, why, how in lost]
        rows = [row for row, _, _ in lost]
        self._ledger.save(rows, events=events, ended=[(row.number, why, None) for row, why, _ in lost])

    def _send_back(
        self, row: ChildRow, why: str, *, alone: bool = False, uncount: bool = False
    ) -> tuple[str, dict[str, Any]]:
        """running -> queued; returns the event that says so."""
        row.requeue(alone=alone, uncount=uncount)
        log.info("%s goes back into the queue: %s", self._naming.of(row.number), why)
        return "requeued", {"child": row.number, "alone": row.alone, "why": why}


def _why(error: BaseException) -> str:
    """Why a run of a search ended before its budget was spent."""
    if isinstance(error, KeyboardInterrupt):
        return "Ctrl-C or SIGTERM"
    if isinstance(error, SearchPaused):
        return printable(str(error))
    text = told(error) if isinstance(error, Exception) else str(error)
    return printable(f"{type(error).__name__}: {text}")[:LONGEST_WHY]
