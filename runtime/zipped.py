"""Files in zip archives, under paths that lead through them: `data/train.zip/train/cat/1.jpg`.

Nothing is unpacked on the disk. An archive is opened once per process: workers that share an open file would
read at each other's places.
"""

import functools
import lzma
import os
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from backbones.files import existing
from backbones.words import clipped

SUFFIX, WHAT = ".zip", "zip"
MOST_BYTES = 1 << 28
"""Of one file, unpacked."""
MOST_LEVELS = 64
"""Folders inside each other: a name of 64 kB would stand for 32,000 and their paths for gigabytes."""
_BROKEN = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, NotImplementedError, OSError, EOFError, MemoryError),
    *(ValueError, LookupError, OverflowError),
)
"""What `zipfile` raises for an archive that is damaged or made to do harm."""


class Place(NamedTuple):
    """An archive and the name of a file or folder in it; an empty name is the archive itself."""

    archive: str
    name: str


@dataclass(frozen=True)
class Entry:
    """What `os.DirEntry` says of a file or folder on the disk."""

    name: str
    path: str
    folder: bool

    def is_dir(self) -> bool:
        return self.folder

    def is_file(self) -> bool:
        return not self.folder

    def is_symlink(self) -> bool:
        return False


def place(path: str | os.PathLike[str]) -> Place | None:
    """Where a path leads that goes through a zip archive; None for all others.

    Raises as `existing` does where the archive is no regular file."""
    text = os.fspath(path)
    if SUFFIX not in text.lower():
        return None
    parts = text.split(os.sep)
    for count, part in enumerate(parts, start=1):
        archive = os.sep.join(parts[:count])
        if part.lower().endswith(SUFFIX) and os.path.lexists(archive) and not os.path.isdir(archive):
            existing(archive, WHAT)
            return Place(archive, "/".join(parts[count:]))
    return None


def is_folder(path: Path) -> bool:
    """Whether there is such a folder, on the disk or in an archive. Raises for a broken one as `place`."""
    at = place(path)
    return path.is_dir() if at is None else at.name in _folders(at)


def entries(at: Place) -> list[Entry]:
    """Of a folder in an archive, in no order."""
    inside = _folders(at).get(at.name, {})
    return [Entry(name, f"{_path(at)}{os.sep}{name}", folder) for name, folder in inside.items()]


def read(at: Place) -> bytes:
    """A file's content. Raises FileNotFoundError, or ValueError that names the file and the fault."""
    archive, path = _opened(at.archive, os.getpid(), _modified(at.archive)), _path(at)
    try:
        member = archive.getinfo(at.name)
    except KeyError:
        raise FileNotFoundError(f"{path}: no such file in the archive") from None
    if member.file_size > MOST_BYTES:
        raise ValueError(f"{path}: unpacks to {member.file_size} bytes, expected at most {MOST_BYTES}")
    if member.flag_bits & 1:
        raise ValueError(f"{path}: is encrypted; unpack the archive and give its folder")
    try:
        return archive.read(member)
    except _BROKEN as error:
        raise ValueError(f"{path}: cannot be unpacked: {str(error) or type(error).__name__}") from None


def archives(folder: Path) -> list[Path]:
    """The zip archives in a folder, by name, whatever they are: to open one tells."""
    found = (path for path in folder.iterdir() if path.suffix.lower() == SUFFIX and path.name[0] != ".")
    return sorted(path for path in found if not path.is_dir())


def _path(at: Place) -> str:
    return os.path.join(at.archive, *filter(None, at.name.split("/")))


@functools.lru_cache(maxsize=8)
def _opened(archive: str, process: int, modified: int) -> zipfile.ZipFile:
    """process: the id of this one, so that a fork opens its own."""
    file = existing(archive, WHAT)
    try:
        return zipfile.ZipFile(file)
    except PermissionError:
        raise
    except _BROKEN as error:
        reason = str(error) or type(error).__name__
        raise ValueError(f"{archive}: expected a zip archive, but {reason}") from None


def _folders(at: Place) -> dict[str, dict[str, bool]]:
    """Of every folder, what is in it, and whether that is a folder. The archive's own name is empty."""
    return _tree(at.archive, _modified(at.archive))


def _modified(archive: str) -> int:
    """In nanoseconds: what was read of an archive is forgotten when the file changes."""
    return os.stat(archive).st_mtime_ns


@functools.lru_cache(maxsize=8)
def _tree(archive: str, modified: int) -> dict[str, dict[str, bool]]:
    folders: dict[str, dict[str, bool]] = {"": {}}
    for name in _opened(archive, os.getpid(), modified).namelist():
        *parents, last = name.split("/")
        if any(part in ("", ".", "..") for part in parents):
            raise ValueError(f"{archive}: holds {clipped(name)}, expected names below the archive")
        if len(parents) > MOST_LEVELS:
            raise ValueError(
                f"{archive}: holds {clipped(name)}, {len(parents)} folders deep, "
                f"expected at most {MOST_LEVELS}"
            )
        for depth, parent in enumerate(parents):
            folders.setdefault("/".join(parents[:depth]), {})[parent] = True
            folders.setdefault("/".join(parents[: depth + 1]), {})
        if last:
            folders["/".join(parents)].setdefault(last, False)
    return folders
