"""The process of a child on another machine: it outlives the driver and keeps what that has not fetched.

Nothing here knows the cluster that started the process.
"""

import faulthandler
import os
import signal
import threading
import time
from collections import deque
from dataclasses import dataclass, replace
from typing import NamedTuple

from search.executors.room import Shape
from search.messages import ChildTask, Evaluator, OpenEvaluator, Result, Site

REPORTS_KEPT = 100
"""Newest messages of how far the child is that wait for the driver."""


class Opened(NamedTuple):
    """A process that has its evaluator. errors: the file that its standard error goes to; empty if none."""

    site: Site
    errors: str


@dataclass(frozen=True)
class Report:
    """What a process has to say.

    number, attempt: of the newest task; None before the first. told: how far its child is, as `OnProgress`
    takes it, since the last report. result: None while it runs. interrupted: the evaluator raised what
    interrupts a program. seconds: since the task began. opened: None before the evaluator is open.
    """

    node: str
    shape: Shape
    opened: Opened | None
    number: int | None
    attempt: int | None
    told: tuple[tuple[int, float, int], ...]
    result: Result | None
    interrupted: bool
    seconds: float


class Resident:
    """Runs one child at a time in one thread and answers the driver in another.

    A result is kept until the next task begins, which the driver sends after it has recorded that result.
    Without a word from a driver for `orphan_seconds` the process ends: the kernel's alarm ends it even while
    native code holds the interpreter.
    """

    def __init__(self, node: str, shape: Shape, orphan_seconds: int):
        """node: the cluster's name of the machine. shape: what the process was given there."""
        self._node, self._shape, self._orphan_seconds = node, Shape(*shape), orphan_seconds
        signal.alarm(orphan_seconds)
        if not self._shape.gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before PyTorch looks: those GPUs are other children's
        faulthandler.enable()
        self._evaluator: Evaluator | None = None
        self._opened: Opened | None = None
        self._task: ChildTask | None = None
        self._result: Result | None = None
        self._begun, self._interrupted, self._is_new = 0.0, False, False
        self._told: deque[tuple[int, float, int]] = deque(maxlen=REPORTS_KEPT)
        self._changed = threading.Condition()

    def open(self, open_evaluator: OpenEvaluator) -> Opened:
        """Opens the evaluator. Raises whatever that raises."""
        signal.alarm(self._orphan_seconds)
        from search.children.site import here  # the driver imports this module, and needs no tensors for it

        self._evaluator = open_evaluator()
        site = here(getattr(self._evaluator, "device", "cpu"))
        self._opened = Opened(replace(site, node=self._node), _file_of_errors())
        return self._opened

    def run(self, task: ChildTask) -> None:
        """Runs a child to its end; `report` gives its result."""
        from search.children.attempt import attempt

        assert self._evaluator is not None
        assert self._opened is not None
        with self._changed:
            self._task, self._result, self._begun = task, None, time.monotonic()
            self._interrupted = self._is_new = False
            self._told.clear()
        try:
            result = attempt(self._evaluator, task, lambda *told: self._told.append(told))
            result = replace(result, site=self._opened.site)
        except BaseException:  # an interrupt, which is the driver's to raise
            result = None
        with self._changed:
            self._result, self._interrupted, self._is_new = result, result is None, True
            self._changed.notify_all()

    def report(self, seconds: float) -> Report:
        """What is known; waits for a result that is not reported yet, at most `seconds`."""
        signal.alarm(self._orphan_seconds)
        with self._changed:
            self._changed.wait_for(lambda: self._is_new, seconds)
            self._is_new = False
            told = tuple(self._told.popleft() for _ in range(len(self._told)))
            return Report(
                self._node,
                self._shape,
                self._opened,
                self._task.proposal.number if self._task else None,
                self._task.attempt if self._task else None,
                told,
                self._result,
                self._interrupted,
                time.monotonic() - self._begun,
            )


def _file_of_errors() -> str:
    try:
        return os.readlink("/proc/self/fd/2")
    except OSError:  # not Linux
        return ""


def last_words(path: str) -> str:
    """What Python wrote into `path` when native code ended its process; empty if it did not."""
    try:
        with open(path, errors="replace") as file:
            text = file.read()
    except OSError:
        return ""
    _, found, rest = text.rpartition("Fatal Python error: ")
    return rest.partition("\nExtension modules:")[0].strip() if found else ""
