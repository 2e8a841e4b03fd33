"""The simulated executor: many workers whose time is virtual, for searches that are only planned."""

import heapq
from collections import deque
from collections.abc import Sequence

from search.children.attempt import attempt
from search.executors.config import SimulatedConfig
from search.messages import ChildTask, OnProgress, OpenEvaluator, Result


class SimulatedExecutor:
    """Each task takes as long as its result says in `seconds`, of a clock that only `poll` moves.

    Times in microseconds since the start. A task starts when it is submitted; one with `alone` when those
    before it have ended.
    """

    dies_with_driver = True

    def __init__(self, config: SimulatedConfig, open_evaluator: OpenEvaluator, search: str):
        """search: is not used."""
        self._evaluator, self._workers = open_evaluator(), config.workers
        self._submitted = deque[ChildTask]()
        self._running: list[tuple[int, int, Result]] = []
        """Finish, number and result; a heap."""
        self.now = 0
        self.spans: list[tuple[int, int]] = []
        """Start and finish of every task that was begun."""

    def adopt(self, tasks: Sequence[ChildTask]) -> set[int]:
        return set()

    def capacity(self) -> int:
        if any(task.alone for task in self._submitted):
            return 0
        return self._workers - len(self._submitted) - len(self._running)

    def submit(self, task: ChildTask) -> None:
        if not self.capacity():
            raise RuntimeError(f"child {task.proposal.number} was submitted to a busy executor")
        self._submitted.append(task)

    def poll(self, on_progress: OnProgress | None = None) -> list[Result]:
        """Moves on to the next finish; returns what finishes then, by number."""
        while self._submitted and not (self._submitted[0].alone and self._running):
            task = self._submitted.popleft()
            result = attempt(self._evaluator, task, on_progress)
            seconds = 0.0 if result.failure else result.seconds  # a failure's are measured, not simulated
            finish = self.now + round(1e6 * seconds)
            self.spans.append((self.now, finish))
            heapq.heappush(self._running, (finish, task.proposal.number, result))
        finished = []
        if self._running:
            self.now = self._running[0][0]
            while self._running and self._running[0][0] == self.now:
                finished.append(heapq.heappop(self._running)[2])
        return finished

    def cancel(self, number: int) -> None:
        self._submitted = deque(task for task in self._submitted if task.proposal.number != number)
        self._running = [each for each in self._running if each[1] != number]
        heapq.heapify(self._running)

    def utilisation(self, until: int) -> float:
        """Share of the workers' time from the start to `until` in which they had a task, in [0, 1]."""
        busy = sum(min(finish, until) - start for start, finish in self.spans if start < until)
        return busy / (self._workers * until) if until else 0.0

    def close(self) -> None:
        self._submitted, self._running = deque(), []
