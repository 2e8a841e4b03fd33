"""The one process that writes to a run folder; of the ranks of a training run, the first one.

The owner holds a kernel lock (flock) on `owner.lock` in the folder, so that however it ends, the folder is
free. Where the file system has no locks, the owner renews the time of that file instead, and a file whose
time is 60 seconds old belongs to nobody.
"""

import errno
import fcntl
import json
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from backbones.files import existing, real_path, write_atomically
from backbones.words import clipped
from runtime.launch import launched_rank

FILE = "owner.lock"
DEAD_SECONDS = 60.0
"""Age of the file, where there are no locks, at which its owner counts as dead."""
BEAT_SECONDS = 10.0
SETTLE_SECONDS = 0.5
"""Where there are no locks: time in which of two processes that claim at once the later one wins."""
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


class FolderInUseError(ValueError):
    """Another process writes to the folder."""


@dataclass
class _Claim:
    """A folder that this process owns. lock: file descriptor that holds the kernel lock; None: a heartbeat.

    made: folders that did not exist before, the innermost first. uses: blocks in which it is owned."""

    path: Path
    made: list[Path]
    token: str = field(default_factory=lambda: secrets.token_hex(8))
    lock: int | None = None
    uses: int = 1
    ended: threading.Event = field(default_factory=threading.Event)


_claims: dict[Path, _Claim] = {}
"""By the folder's real path."""


@contextmanager
def owned(*folders: str | os.PathLike[str]) -> Iterator[None]:
    """Owns folders, which are made where they do not exist; blocks of one process may be nested.

    Folders that were made for it and are still empty at the end are removed. In all ranks but the first this
    does nothing: the first one owns the folders for all of them.
    Raises FolderInUseError that names the owner's host, process and start where there is another one, and
    OSError where a folder cannot be written to.
    """
    if launched_rank():
        yield
        return
    claims: list[_Claim] = []
    try:
        for folder in folders:
            claims.append(_claim(Path(folder)))
        yield
    finally:
        for claim in reversed(claims):
            _release(claim)


def refuse_if_in_use(folder: Path) -> None:
    """Raises FolderInUseError where another process owns the folder, before much is imported."""
    if (folder / FILE).is_file():
        with suppress(OSError), owned(folder):
            pass


def owner(folder: Path) -> str | None:
    """The folder's owner in words, as far as its file says; None where there is none. Changes nothing.

    A process of this host that was killed is no owner. One of another host is taken at its word."""
    path = folder / FILE
    if not path.is_file():
        return None
    found = _read(path)
    pid = found.get("pid")
    if found.get("host") == socket.gethostname() and isinstance(pid, int) and not _alive(pid):
        return None
    return _who(found) if found else None


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError, ValueError):
        return False
    except PermissionError:  # of another user
        pass
    return True


def owns(folder: Path) -> bool:
    """Whether this process owns the folder."""
    return real_path(folder) in _claims


def _claim(folder: Path) -> _Claim:
    known = _claims.get(real_path(folder))
    if known is not None:
        known.uses += 1
        return known
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    claim = _Claim(real_path(folder) / FILE, made)
    try:
        if os.path.lexists(claim.path):
            existing(claim.path, "lock")
        claim.lock = _lock(claim.path)
        content = json.dumps(
            {
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
                "token": claim.token,
            }
        )
        if claim.lock is None:
            _claim_without_locks(claim, content)
        else:
            os.ftruncate(claim.lock, 0)
            os.pwrite(claim.lock, content.encode(), 0)
    except BaseException as error:
        if claim.lock is not None:
            _unlock(claim)
        _remove_empty(made)
        if isinstance(error, OSError) and error.filename is None:  # such as a full disk
            raise OSError(error.errno, error.strerror, str(claim.path)) from None
        raise
    _claims[real_path(folder)] = claim
    return claim


def _lock(path: Path) -> int | None:
    """A file descriptor that holds the lock; None where the file system has no locks."""
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(lock), os.stat(path)):
                    return lock
            os.close(lock)  # its owner of before removed the file in the meantime
        except OSError as error:
            os.close(lock)
            if isinstance(error, BlockingIOError):
                raise _in_use(path) from None
            if error.errno in _NO_LOCKS:
                return None
            raise


def _claim_without_locks(claim: _Claim, content: str) -> None:
    found = _read(claim.path)
    if found.get("token") and (age := _age(claim.path)) < DEAD_SECONDS:
        wait = f"; if it was killed, the folder is free in {DEAD_SECONDS - age:.0f} s"
        raise _in_use(claim.path, wait)
    write_atomically(claim.path, content)
    time.sleep(SETTLE_SECONDS)
    if _read(claim.path).get("token") != claim.token:
        raise _in_use(claim.path)
    threading.Thread(target=_beat, args=(claim,), daemon=True, name="owner of a folder").start()


def _beat(claim: _Claim) -> None:
    while not claim.ended.wait(BEAT_SECONDS):
        found = _read(claim.path).get("token", claim.token)
        if found != claim.token and not claim.ended.is_set():
            # It was stopped for so long that it counted as dead: writing on would spoil the other's run.
            print(f"{_in_use(claim.path)}. This process stood still too long and ends", file=sys.stderr)
            os._exit(1)
        with suppress(OSError):
            os.utime(claim.path)


def _age(path: Path) -> float:
    """Seconds since the file's time, by the clock of its file system."""
    probe = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    probe.touch()
    now = probe.stat().st_mtime
    probe.unlink()
    try:
        return now - path.stat().st_mtime
    except FileNotFoundError:
        return DEAD_SECONDS


def _read(path: Path) -> dict[str, object]:
    """What the file says of its owner; empty where that is nothing."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _in_use(path: Path, more: str = "") -> FolderInUseError:
    found = _read(path)
    for _ in range(20):  # the owner writes this just after it took the lock
        if found:
            break
        time.sleep(0.05)
        found = _read(path)
    who = _who(found) if found else "another process"
    return FolderInUseError(
        f"{path.parent} is in use by {who}; wait until it has ended, or choose another folder{more}"
    )


def _who(found: dict[str, object]) -> str:
    host, pid, started = (clipped(found.get(key)).strip("'\"") for key in ("host", "pid", "started"))
    return f"process {pid} on {host}, started {started}"


def _release(claim: _Claim) -> None:
    claim.uses -= 1
    if claim.uses or _claims.pop(claim.path.parent, None) is not claim:  # a forked child owns nothing
        return
    claim.ended.set()
    if claim.lock is not None:
        _unlock(claim)
    elif _read(claim.path).get("token") == claim.token:
        claim.path.unlink(missing_ok=True)
    _remove_empty(claim.made)


def _unlock(claim: _Claim) -> None:
    assert claim.lock is not None
    claim.path.unlink(missing_ok=True)  # before the lock goes: afterwards it may be another's
    os.close(claim.lock)


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def _forget_in_child() -> None:
    """A child of fork, such as a loader's worker, may outlive its parent and must not keep the lock."""
    for claim in _claims.values():
        if claim.lock is not None:
            os.close(claim.lock)
    _claims.clear()


os.register_at_fork(after_in_child=_forget_in_child)
