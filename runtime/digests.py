"""What the files of a finished run were when it ended: `SHA256SUMS`, which `sha256sum --check` reads, too."""

import hashlib
import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from backbones.files import read_text, write_atomically

FILE = "SHA256SUMS"
CHANGING = ("log.txt", "owner.lock", "report.html", FILE)
"""Files that go on changing after the end, or are made again from the others."""
CHANGING_FOLDERS = ("wandb", "tensorboard")
CHANGING_ENDS = ("-shm", ".damaged", "previous.ckpt")
"""Of SQLite's memory for its readers, of what was kept aside, of a checkpoint that the end removes."""
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")
_LAST = "# sha256 of the lines above: "


def digest(path: Path) -> str:
    """SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_of(folder: Path, changing: bool = False) -> Iterator[str]:
    """Names, relative to the folder of a run, of the files that are its own, sorted.

    changing: those that go on changing, instead of the others. Folders of runs inside, as a chain has, are
    not looked into; files whose names begin with a dot, and links, are nobody's."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.is_symlink():
            continue
        if path.is_dir():
            if path.name in CHANGING_FOLDERS:
                yield from ([f"{path.name}/"] if changing else [])
            elif not (path / "config.yaml").exists():
                yield from (f"{path.name}/{name}" for name in files_of(path, changing))
        elif changing == (path.name in CHANGING or path.name.endswith(CHANGING_ENDS)):
            empty_log = path.name.endswith("-wal") and not path.stat().st_size  # which SQLite may remove
            if path.is_file() and not empty_log:
                yield path.name


def write_last(folder: Path, name: str, content: str, files: Collection[str] | None = None) -> None:
    """Writes the file that marks a finished run and, before it, the digests of all files, itself included.

    files: names of those that are the run's, as far as they are there, in a folder that holds others, too.
    None: all in it."""
    own = files_of(folder) if files is None else (each for each in files if (folder / each).is_file())
    found = {each: digest(folder / each) for each in own if each != name}
    found[name] = hashlib.sha256(content.encode()).hexdigest()
    write_atomically(folder / FILE, _text(found))
    write_atomically(folder / name, content)


def record(folder: Path) -> int:
    """Writes the digests of the files as they are now; returns how many."""
    found = {name: digest(folder / name) for name in files_of(folder)}
    write_atomically(folder / FILE, _text(found))
    return len(found)


def read_digests(folder: Path) -> dict[str, str]:
    """The digests by the files' names. Raises FileNotFoundError, or ValueError where they are damaged."""
    path = folder / FILE
    text = read_text(path, "digests")
    found = {match[2]: match[1] for line in text.splitlines() if (match := _LINE.fullmatch(line))}
    if _text(found) != text:
        raise ValueError(f"{path}: damaged: its last line is not the SHA-256 of the lines above")
    return found


def forget(folder: Path) -> None:
    """Removes the digests: the run goes on, and its files change."""
    (folder / FILE).unlink(missing_ok=True)


def _text(digests: Mapping[str, str]) -> str:
    lines = "".join(f"{found}  {name}\n" for name, found in sorted(digests.items()))
    return f"{lines}{_LAST}{hashlib.sha256(os.fsencode(lines)).hexdigest()}\n"
