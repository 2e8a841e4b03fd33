"""What a child may do to the process that runs it, as an evaluator that other processes can import.

`Behaves` does what the task's seed stands for; `task(number, does=...)` sets it.
"""

import ctypes
import os
import signal
import time

import torch

from backbones.genotype import GenotypeError
from search.children.attempt import report_progress
from search.messages import ChildFailed, ChildTask, Failure, Proposal, Result
from search.space import Space

RAISES = [
    (ChildFailed(Failure.TIMEOUT, "late"), Failure.TIMEOUT),
    (GenotypeError("normal.blocks is empty"), Failure.INVALID),
    (MemoryError(), Failure.OUT_OF_MEMORY),
    (torch.OutOfMemoryError("CUDA out of memory"), Failure.OUT_OF_MEMORY),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory"), Failure.OUT_OF_MEMORY),
    (ZeroDivisionError("division by zero"), Failure.CRASH),
]
"""Errors and the failures that they are."""
DOES = (
    "score",
    "report",
    "answer for another",
    "interrupt",
    "hang",
    "hang in native code",
    "segfault",
    "exit",
    "kill itself",
    "take memory",
    *range(len(RAISES)),
)
"""What a task may be told to do; a number raises the error of RAISES."""


def task(number, does="score", **settings):
    space = Space(blocks=1)
    decisions = space.sample(0, number)
    return ChildTask(Proposal(number, space.decode(decisions), decisions), seed=DOES.index(does), **settings)


class Behaves:
    """Opens itself."""

    def __call__(self, *given):
        return self._run(*given) if given else self

    def _run(self, genotype, task):
        does = DOES[task.seed]
        if isinstance(does, int):
            raise RAISES[does][0]
        if does == "report":
            for epoch in range(task.proposal.number):
                report_progress(epoch + 0.5, 3)
        elif does == "answer for another":
            return Result(globals()["task"](7).proposal, reward=1.0)
        elif does == "interrupt":
            raise KeyboardInterrupt
        elif does == "hang":
            time.sleep(600)
        elif does == "hang in native code":
            ctypes.PyDLL(None).sleep(600)  # holds the interpreter's lock
        elif does == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        elif does == "exit":
            os._exit(7)
        elif does == "kill itself":
            os.kill(os.getpid(), signal.SIGKILL)
        elif does == "take memory":
            self.taken = torch.ones(1_000_000_000 // 4)
            time.sleep(600)
        return Result(task.proposal, reward=task.proposal.number / 10)


class Unopenable:
    """Opens nothing."""

    def __call__(self):
        raise ValueError("no such laboratory")
