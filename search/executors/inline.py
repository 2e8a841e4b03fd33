"""Where children run. One protocol; the inline executor, which is also the fake in everybody's tests."""

from collections.abc import Sequence
from typing import Protocol

from search.children.attempt import attempt
from search.config import InlineConfig
from search.messages import ChildTask, Evaluator, Result


class Executor(Protocol):
    """Runs tasks and returns each one's result once, in any order.

    Laws, tested for all by `ExecutorContract`: an evaluator that raises gives a typed failure, never an
    exception of `poll`; a task with `alone` shares its device with no other; a cancelled task has no result.
    The proposal's number identifies a task, so it is submitted again only after its result.
    """

    def capacity(self) -> int:
        """Tasks that may be submitted now; 0 when busy."""
        ...

    def submit(self, task: ChildTask) -> None:
        """Raises RuntimeError above the capacity."""
        ...

    def poll(self) -> Sequence[Result]:
        """Results since the last call; may wait a moment, and inline waits for one. Empty without tasks."""
        ...

    def cancel(self, number: int) -> None:
        """Forgets the task of that proposal, if it is known and not done."""
        ...


class InlineExecutor:
    """Runs one task at a time in this process, when polled. Timeouts are the evaluator's to keep."""

    def __init__(self, config: InlineConfig, evaluator: Evaluator):
        """config: has no keys of its own."""
        self._evaluator = evaluator
        self._task: ChildTask | None = None

    def capacity(self) -> int:
        return 1 if self._task is None else 0

    def submit(self, task: ChildTask) -> None:
        if self._task is not None:
            raise RuntimeError(f"child {task.proposal.number} was submitted to a busy executor")
        self._task = task

    def poll(self) -> list[Result]:
        task, self._task = self._task, None
        if task is None:
            return []
        return [attempt(lambda: self._evaluator(task.proposal.genotype, task), task)]

    def cancel(self, number: int) -> None:
        if self._task is not None and self._task.proposal.number == number:
            self._task = None
