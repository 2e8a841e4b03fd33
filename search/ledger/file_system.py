"""The file system that holds a folder, and whether a ledger is safe there."""

import re
from pathlib import Path

from backbones.files import real_path

MOUNTS = Path("/proc/mounts")
SHARED = re.compile(r"nfs\d*|cifs|smb\d|lustre|gpfs|9p|fuse\..*")
"""File systems without the shared memory, or the locks, that SQLite's write-ahead log needs."""


def file_system(folder: Path) -> str:
    """Type of the file system that holds a folder, which need not exist; empty where it is unknown."""
    try:
        lines = MOUNTS.read_text().splitlines()
    except OSError:
        return ""
    resolved, found = real_path(folder), ("", "")
    for line in lines:
        _, point, kind, *_ = line.split(" ")
        point = re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), point)
        # Of several mounts at one point the last one is seen.
        if resolved.is_relative_to(point) and len(point) >= len(found[0]):
            found = point, kind
    return found[1]
