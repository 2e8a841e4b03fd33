"""Ledgers that are made in one piece: new ones, and copies."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from search.ledger.reader import damage_named, log_of


def copy_whole(database: sqlite3.Connection, path: Path) -> None:
    """Replaces the file `path` by a copy of a ledger, which has no write-ahead log: any file system bears it.

    Raises ValueError where a log is left of a ledger that is gone."""
    with made_whole(path) as copy:
        database.backup(copy)
        copy.execute("PRAGMA journal_mode = DELETE")


@contextmanager
def made_whole(path: Path) -> Iterator[sqlite3.Connection]:
    """A new database, made under another name and renamed to `path` when it is whole and on the disk.

    What a killed process left under that name is deleted. Raises ValueError where a write-ahead log is left
    of a ledger that is gone: SQLite would take the new file for that log's."""
    log = log_of(path)
    if log.exists() and log.stat().st_size:
        raise ValueError(
            f"{log} is left of a ledger whose {path.name} is gone; restore that, or move this away"
        )
    new = path.with_name(f".{path.name}.new")
    for leftover in (new, *(new.with_name(new.name + end) for end in ("-journal", "-wal", "-shm"))):
        leftover.unlink(missing_ok=True)
    with damage_named(path), closing(sqlite3.connect(new, isolation_level=None)) as database:
        yield database
    with new.open("rb") as file:
        os.fsync(file.fileno())
    new.replace(path)
