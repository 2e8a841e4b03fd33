"""An evaluator for searches on a cluster: it writes down every attempt and meets with what it is told to."""

import ctypes
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

from toy_search import reward

from backbones.genotype import Genotype
from search.messages import ChildTask, Result

HANG_SECONDS = 600


class Children:
    """Scores by `toy_search.reward`. folder: of files `<child>-<attempt>`, one for each attempt begun.

    faults: by child number, what becomes of its first attempt. seconds: how long each child takes; those of
    number `long_from` and above end only when there is a file `go` or `go<child>` in the folder.
    """

    def __init__(
        self,
        folder: str,
        faults: Mapping[int, str] | None = None,
        seconds: float = 0.0,
        long_from: int | None = None,
    ):
        self._folder, self._faults = Path(folder), faults or {}
        self._seconds, self._long_from = seconds, long_from

    def predicted_microseconds(self, genotype: Genotype) -> int:
        return 1_000 + int(genotype.key, 16) % 5_000

    def __call__(self, genotype: Genotype, task: ChildTask) -> Result:
        number = task.proposal.number
        (self._folder / f"{number}-{task.attempt}").touch()
        if task.attempt == 0 and (fault := self._faults.get(number)):
            meet(fault)
        time.sleep(self._seconds)
        if self._long_from is not None and number >= self._long_from:
            while not any((self._folder / name).exists() for name in ("go", f"go{number}")):
                time.sleep(0.05)
        return Result(task.proposal, reward=reward(genotype))


def meet(fault: str) -> None:
    if fault == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault == "segfault":
        ctypes.string_at(0)
    else:  # a hang in native code that holds the interpreter's lock
        ctypes.PyDLL(None).sleep(HANG_SECONDS)


def attempts(folder: str | Path) -> list[tuple[int, int]]:
    """Child and attempt, of all that have begun."""
    names = (path.name.split("-") for path in Path(folder).glob("*-*"))
    return sorted((int(number), int(attempt)) for number, attempt in names)
