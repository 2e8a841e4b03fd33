"""Data that can be made again, kept in the user's cache."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from backbones.files import expanded


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/celltransfer`, else `~/.cache/celltransfer`. It need not exist."""
    return expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "celltransfer"


def write_folder(folder: Path, marker: str, write: Callable[[Path], None]) -> None:
    """Makes a folder that appears whole or not at all.

    marker: a file that a whole one holds. write: fills the empty folder it is given. Where another process
    was faster, its folder stays. Raises OSError where there can be no such folder."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        write(temporary)
        temporary.chmod(0o755)
        try:
            os.replace(temporary, folder)
        except OSError:
            if not (folder / marker).is_file():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
