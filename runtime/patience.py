"""wandb talks to a service process of its own, which may freeze; no call of it makes a run wait for long."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

SECONDS = 15.0
"""Longest time that a call may wait while the service does nothing."""
MOVING_BYTES = 2**17
"""Read and written by the service within SECONDS: it is at work, such as on the upload of a large file."""


class NoAnswerError(Exception):
    """wandb's service did not answer in time, and was ended."""


def patiently(call: Callable[[], T], seconds: float = SECONDS) -> T:
    """What `call`, which asks wandb for something, returns or raises.

    Raises NoAnswerError where wandb stands still for so long. Its service is ended then: at the end of this
    process wandb would wait for it without limit. What it had been given lies in the run's folder."""
    outcome: list[Any] = []

    def attempt() -> None:
        try:
            outcome.append((call(), None))
        except BaseException as error:  # to the caller
            outcome.append((None, error))

    thread = threading.Thread(target=attempt, daemon=True, name="wandb")
    thread.start()
    thread.join(0.2)
    moved, since = _bytes_moved(), time.monotonic()
    while thread.is_alive():
        thread.join(0.2)
        if time.monotonic() - since < seconds:
            continue
        now = _bytes_moved()
        if now - moved < MOVING_BYTES:
            _end_service()
            raise NoAnswerError(f"no answer for {seconds:.0f} s")
        moved, since = now, time.monotonic()
    value, error = outcome[0]
    if error is not None:
        raise error
    return value


def _end_service() -> None:
    import wandb

    for process in _service_processes():
        with suppress(ProcessLookupError):
            os.kill(int(process.name), signal.SIGKILL)
    closing = threading.Thread(target=_teardown, args=(wandb,), daemon=True, name="wandb")
    closing.start()
    closing.join(5)


def _teardown(wandb: Any) -> None:
    with suppress(Exception):  # its service is gone, which it finds out now and not at the end of the process
        wandb.teardown()


def _bytes_moved() -> int:
    """Read and written by the service up to now; 0 where the system does not tell."""
    total = 0
    for process in _service_processes():
        with suppress(OSError, ValueError):
            counts = dict(line.split(": ") for line in (process / "io").read_text().splitlines())
            total += int(counts["rchar"]) + int(counts["wchar"])
    return total


def _service_processes() -> Iterator[Path]:
    """`/proc/<id>` of this process's children that are wandb's service; none where there is no /proc."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError):
            name, _, rest = (process / "stat").read_text().partition(" (")[2].rpartition(") ")
            if name.startswith("wandb-core") and int(rest.split()[1]) == os.getpid():
                yield process
