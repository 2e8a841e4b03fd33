"""Files that are never half-written: every stage writes through this module."""

import json
import os
import secrets
from pathlib import Path
from typing import Any


def write_atomically(path: str | os.PathLike[str], data: bytes | str) -> None:
    """Writes to a temporary name beside it, syncs, renames: a crash leaves the old file or the new."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        with temporary.open("xb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes `value` as indented JSON. NaN and infinities are refused: they are not JSON."""
    write_atomically(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike[str], what: str) -> Any:
    """Parses a JSON file.

    what: the kind of file for the message, such as "genotype".
    Raises FileNotFoundError, or ValueError that names the file and the place of the mistake.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such {what} file")
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:  # also a number of more digits than Python reads
        raise ValueError(f"{path}: expected a {what} in JSON, but {error}") from None
