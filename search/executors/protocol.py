"""What every executor does."""

from collections.abc import Sequence
from typing import Protocol

from search.messages import ChildTask, OnProgress, Result


class Executor(Protocol):
    """Runs tasks and returns each one's result once, in any order.

    It is built from its configuration by `build(open_evaluator, search)`: `open_evaluator` is called once in
    each process that runs children; `search` names the search and its folder where other drivers may see it.
    `dies_with_driver`: whether the driver itself runs the children, so that one may have killed it.
    Laws, tested for all by `ExecutorContract`: an evaluator that raises gives a typed failure, never an
    exception of `poll`; a task with `alone` shares its device with no other, so that on one device it starts
    when those before it have ended, and none is accepted until it has; a cancelled task has no result. The
    proposal's number identifies a task, so it is submitted again only after its result.
    """

    dies_with_driver: bool

    def adopt(self, tasks: Sequence[ChildTask]) -> set[int]:
        """Takes over tasks that a driver which is gone left running; called once, before anything else.

        Returns the numbers of those that still run, or whose results were kept: `poll` will give them."""
        ...

    def capacity(self) -> int:
        """Tasks that may be submitted now; 0 when busy."""
        ...

    def submit(self, task: ChildTask) -> None:
        """Raises RuntimeError above the capacity."""
        ...

    def poll(self, on_progress: OnProgress | None = None) -> Sequence[Result]:
        """Results since the last call; may wait a moment, and inline waits for one. Empty without tasks.

        on_progress: receives meanwhile what running children report of themselves."""
        ...

    def cancel(self, number: int) -> None:
        """Forgets the task of that proposal, if it is known and not done."""
        ...

    def close(self) -> None:
        """Ends every process that this executor started. Nothing else may be called afterwards."""
        ...
