"""Where a process may be killed: before it makes, renames or removes a file, an fsync, an SQL statement."""

import os
import signal
import sqlite3
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

SHARED_MEMORY = Path("/dev/shm")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
FILE_EVENTS = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink"}
READS = ("SELECT", "PRAGMA user_version", "PRAGMA quick_check")


def kill_at_point(folder: Path, number: int, points: list[str] | None = None) -> None:
    """Kills this process, as `kill -9` does, before it does the `number`-th of these things (from 1).

    folder: where files count, its own creation too. Statements of SQLite count one by one, those of a
    script too. points: receives what was counted. It cannot be undone: for a forked process.
    """
    passed = [] if points is None else points
    inside = str(folder)

    def point(what: str) -> None:
        passed.append(what)
        if len(passed) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, str) and path.startswith(inside) and flags & WRITES:
                point(f"open {path.removeprefix(inside)}")
        elif event in FILE_EVENTS and str(arguments[0]).startswith(inside):
            point(f"{event} {str(arguments[0]).removeprefix(inside)}")

    connect, fsync = sqlite3.connect, os.fsync

    def traced(*arguments: Any, **settings: Any) -> sqlite3.Connection:
        point("sqlite3.connect")
        database = connect(*arguments, **settings)
        database.set_trace_callback(lambda sql: sql.startswith(READS) or point(" ".join(sql[:60].split())))
        return database

    def synced(file: int) -> None:
        point("os.fsync")
        fsync(file)

    sqlite3.connect, os.fsync = traced, synced  # type: ignore[assignment]
    sys.addaudithook(audit)


def in_fork(function: Callable[[], object], log: Path) -> int:
    """Runs a function in a forked process whose output goes to `log`; returns its exit code.

    0 where it returns, 1 with a traceback in `log` where it raises, -9 where it was killed."""
    return exit_code(fork(function, log))


def exit_code(process: int) -> int:
    """Waits for a forked process to end. Negative: the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def fork(function: Callable[[], object], log: Path) -> int:
    """As `in_fork`, but returns the id of the process, and of its own process group, at once."""
    if not (child := os.fork()):
        code = 1
        try:
            os.setpgid(0, 0)
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            for stream in (1, 2):
                os.dup2(output, stream)
            function()
            code = 0
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(code)
    with suppress(OSError):
        os.setpgid(child, child)
    return child


def group_ends(group: int, seconds: float) -> bool:
    """Whether a process group has ended within that time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


@contextmanager
def in_memory(otherwise: Path) -> Iterator[Path]:
    """An empty folder where an fsync costs nothing: what a killed process has written is there in any case.

    otherwise: taken where there is no such place."""
    if not os.access(SHARED_MEMORY, os.W_OK):
        yield otherwise
        return
    with tempfile.TemporaryDirectory(dir=SHARED_MEMORY) as name:
        yield Path(name)
