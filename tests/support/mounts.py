"""File systems of a test's own: small ones, read-only ones. For a forked process, with which they end."""

import ctypes
import os
from pathlib import Path

import pytest
from fault_points import in_fork

NEW_USER, NEW_MOUNTS = 0x1000_0000, 0x0002_0000  # CLONE_NEWUSER, CLONE_NEWNS of <sched.h>
READ_ONLY, REMOUNT, BIND, RECURSIVE, PRIVATE = 1, 32, 4096, 16384, 1 << 18  # MS_* of <sys/mount.h>

_libc = ctypes.CDLL(None, use_errno=True)


def own_mounts() -> None:
    """Gives this process, which must have one thread, file systems that no other process sees."""
    user = 0 if os.geteuid() == 0 else NEW_USER
    if _libc.unshare(user | NEW_MOUNTS):
        raise OSError(ctypes.get_errno(), "unshare")
    _mount(None, "/", None, RECURSIVE | PRIVATE)


def mount_memory(folder: Path, size: int, again: bool = False) -> None:
    """Mounts a file system of `size` bytes in memory; again: gives the one that is there this size."""
    _mount("tmpfs", folder, "tmpfs", REMOUNT if again else 0, f"size={size}")


def mount_read_only(folder: Path) -> None:
    """Makes a folder read-only, for root too."""
    _mount(folder, folder, None, BIND)
    _mount(folder, folder, None, BIND | REMOUNT | READ_ONLY)


def skip_without_mounts(log: Path) -> None:
    if in_fork(own_mounts, log):
        pytest.skip("needs mounts of its own: root, or user namespaces")


def _mount(source: object, target: object, kind: str | None, flags: int, data: str | None = None) -> None:
    words = [None if word is None else str(word).encode() for word in (source, target, kind, data)]
    if _libc.mount(*words[:3], ctypes.c_ulong(flags), words[3]):
        raise OSError(ctypes.get_errno(), f"mount {target}")
