"""The life of a worker process: it opens the evaluator once and runs one child after the other.

What it sends: `Ready` once, `Told` while a child runs, one `Result` for each task. Ctrl-C and SIGTERM, which
reach the whole process group, are the driver's to handle. When the driver is gone, however that ended, the
kernel kills the worker, even inside native code.
"""

import ctypes
import gc
import os
import sys
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection

from runtime.interrupts import ignore_signals
from runtime.launch import die_with_parent
from search.messages import Site

SECONDS_BETWEEN_REPORTS = 0.1


@dataclass(frozen=True)
class Ready:
    """The evaluator is open. error: why it could not be opened; empty where it could. site: None then."""

    site: Site | None
    error: str = ""


@dataclass(frozen=True)
class Told:
    """How far a child is, in epochs."""

    number: int
    done: float
    epochs: int


def main() -> None:
    """The process: arguments are the pipe's file descriptor, the driver's process id and the GPU or `-`.

    The first message is the opener, the others are tasks; the end of the pipe ends the process.
    """
    descriptor, driver, gpu = sys.argv[1:]
    die_with_parent(int(driver))  # before PyTorch is imported, which takes seconds
    ignore_signals()
    if gpu != "-":
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    work(Connection(int(descriptor)))


def work(pipe: Connection) -> None:
    """Opens the evaluator that comes through the pipe and runs the tasks that follow."""
    try:
        import torch

        from search.children.attempt import attempt
        from search.children.site import here

        torch.set_num_threads(1)  # until the evaluator chooses
        evaluator = pipe.recv()()
    except Exception as error:
        pipe.send(Ready(None, f"{type(error).__name__}: {error}"))
        return
    pipe.send(Ready(here(getattr(evaluator, "device", "cpu"))))
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        reports = _Reports(pipe)
        result = attempt(evaluator, task, reports)
        reports.flush()
        pipe.send(result)
        return_memory()


def return_memory() -> None:
    """Gives freed memory back to the kernel; glibc would keep 2 GB of a child's tensors for the next one."""
    gc.collect()
    if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)


class _Reports:
    """Sends how far a child is, not more often than anybody looks. The newest report is never lost."""

    def __init__(self, pipe: Connection):
        self._pipe, self._sent = pipe, 0.0
        self._held: Told | None = None

    def __call__(self, number: int, done: float, epochs: int) -> None:
        self._held = Told(number, done, epochs)
        if time.monotonic() - self._sent >= SECONDS_BETWEEN_REPORTS:
            self.flush()

    def flush(self) -> None:
        if self._held is not None:
            self._pipe.send(self._held)
            self._held, self._sent = None, time.monotonic()
