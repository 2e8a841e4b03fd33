"""The inline executor, which is also the fake in everybody's tests."""

from collections.abc import Sequence

from search.children.attempt import attempt
from search.executors.config import InlineConfig
from search.messages import ChildTask, OnProgress, OpenEvaluator, Result


class InlineExecutor:
    """Runs one task at a time in this process, when polled. Timeouts are the evaluator's to keep."""

    dies_with_driver = True

    def __init__(self, config: InlineConfig, open_evaluator: OpenEvaluator, search: str):
        """config: has no keys of its own. search: is not used."""
        self._evaluator = open_evaluator()
        self._task: ChildTask | None = None

    def adopt(self, tasks: Sequence[ChildTask]) -> set[int]:
        return set()

    def capacity(self) -> int:
        return 1 if self._task is None else 0

    def submit(self, task: ChildTask) -> None:
        if self._task is not None:
            raise RuntimeError(f"child {task.proposal.number} was submitted to a busy executor")
        self._task = task

    def poll(self, on_progress: OnProgress | None = None) -> list[Result]:
        task, self._task = self._task, None
        return [] if task is None else [attempt(self._evaluator, task, on_progress)]

    def cancel(self, number: int) -> None:
        if self._task is not None and self._task.proposal.number == number:
            self._task = None

    def close(self) -> None:
        self._task = None
