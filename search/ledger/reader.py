"""Reading a ledger: what a report needs, without tensors."""

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from backbones.files import existing
from search.ledger.rows import SCHEMA, ChildRow, from_json, row_of

LEDGER = "search.sqlite"
"""In the folder of a search."""
NAMED = 8
"""Searches inside a folder that a message names."""
COPIES_TRIED = 5
"""Of a ledger that is being written to, on another machine or by another user."""


def ledger_of(place: Path) -> Path:
    """The ledger that a folder, or the file itself, means: a search's own, or that of a chain's search.

    Raises FileNotFoundError where there is none; it names the searches in the folders inside, as those of a
    rerank or a probe are."""
    candidates = [place] if place.is_file() else [place / LEDGER, place / "search" / LEDGER]
    for path in candidates:
        if path.is_file():
            return path
    inside = sorted(str(path.parent) for path in place.glob(f"*/{LEDGER}"))
    listed = ", ".join(inside[:NAMED]) + (", …" if len(inside) > NAMED else "")
    raise FileNotFoundError(
        f"{place}: holds no search, expected {LEDGER} in it"
        + (f"; there is one in {listed}" if inside else "")
    )


def read_children(path: str | Path) -> list[ChildRow]:
    """All children by number, read-only, also while the search runs or where nothing may be written.

    Raises FileNotFoundError, or ValueError for a file that is not a ledger or has a newer schema.
    """
    with closing(connect(Path(path), read_only=True)) as database, damage_named(Path(path)):
        return read_rows(database)


def read_fact(path: str | Path, name: str) -> Any:
    """A fact of the search; None where it is not known. Raises as `read_children` does."""
    with closing(connect(Path(path), read_only=True)) as database, damage_named(Path(path)):
        return fact(database, name)


def is_ledger(path: Path) -> bool:
    """Whether there is a ledger. An empty file is none: a search was killed while it made the file."""
    return os.path.lexists(path) and existing(path, "ledger").stat().st_size > 0


def connect(path: Path, read_only: bool = False) -> sqlite3.Connection:
    """A connection that begins no transaction of its own. read_only: no right to write is needed.

    Raises FileNotFoundError, or ValueError for a file that is not a ledger or has a newer schema."""
    if not is_ledger(path):
        raise FileNotFoundError(f"{path}: no such ledger")
    with damage_named(path):
        database = _readable(path) if read_only else _open(path, "mode=rw")
    try:
        with damage_named(path):
            schema = database.execute("PRAGMA user_version").fetchone()[0]
            if not 1 <= schema <= SCHEMA:
                advice = "update celltransfer" if schema > SCHEMA else "it is not a search's file"
                raise ValueError(f"{path}: schema version {schema}, this version reads 1..{SCHEMA}; {advice}")
            ((verdict,), *_) = database.execute("PRAGMA quick_check(1)").fetchall()
            if verdict != "ok":
                raise sqlite3.DatabaseError(verdict)
    except BaseException:
        database.close()
        raise
    return database


def _open(path: Path, how: str) -> sqlite3.Connection:
    # Without isolation_level=None the driver would open and commit transactions behind our back.
    return sqlite3.connect(f"{path.absolute().as_uri()}?{how}", uri=True, isolation_level=None)


def _readable(path: Path) -> sqlite3.Connection:
    """A connection for reading that leaves the folder as it is, also where nothing may be written there.

    SQLite reads through a log and a file of shared memory, which it makes where they are missing. Where both
    are there, a search runs, or was killed; else the ledger is read as a copy."""
    if log_of(path).exists() and path.with_name(f"{path.name}-shm").exists():
        database = _open(path, "mode=ro")
        try:
            database.execute("SELECT count(*) FROM sqlite_schema")
            return database
        except sqlite3.Error as error:
            database.close()
            if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
                raise
    return _copied(path)


def _copied(path: Path) -> sqlite3.Connection:
    """A ledger, with what its write-ahead log holds, in memory.

    Raises OSError where they change all the time, or the folder for temporary files is full."""
    database = sqlite3.connect(":memory:", isolation_level=None)
    for _ in range(COPIES_TRIED):
        before = _stamps(path)
        if _stamp(log_of(path))[1]:
            with tempfile.TemporaryDirectory() as folder:
                for file in (path, log_of(path)):
                    shutil.copyfile(file, Path(folder, file.name))
                if _stamps(path) == before:
                    with closing(_open(Path(folder, path.name), "mode=rw")) as copy, damage_named(path):
                        copy.backup(database)
                    return database
            continue
        # Nobody has written. Beside a log it would be wrong: SQLite would not look at that.
        with closing(_open(path, "mode=ro&immutable=1")) as source:
            source.backup(database)
        if _stamps(path) == before:
            return database
    raise OSError(f"{path}: cannot be read while it is written to; try again")


def log_of(path: Path) -> Path:
    """The write-ahead log of a ledger."""
    return path.with_name(f"{path.name}-wal")


def _stamps(path: Path) -> list[tuple[int, int]]:
    """Time and size of a ledger and of its log; zeros for what is not there."""
    return [_stamp(path), _stamp(log_of(path))]


def _stamp(file: Path) -> tuple[int, int]:
    try:
        found = file.stat()
    except FileNotFoundError:
        return 0, 0
    return found.st_mtime_ns, found.st_size


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Errors of SQLite in the block name the ledger and what to do."""
    try:
        yield
    except sqlite3.OperationalError as error:  # a full disk, a folder that may not be written to
        raise OSError(f"{path}: {error}") from None
    except sqlite3.IntegrityError:
        raise
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # the latter from SQLite's own messages
        text = " ".join(str(error).split())
        raise ValueError(
            f"{path}: not a search ledger, or damaged: {text}; nothing was changed. Restore it from a copy "
            "with the -wal file beside it, or choose another run_dir"
        ) from None


def fact(database: sqlite3.Connection, name: str) -> Any:
    """None where it is not known."""
    row = database.execute("SELECT value FROM facts WHERE name = ?", [name]).fetchone()
    return None if row is None else from_json(row[0], f"fact {name}")


def read_rows(database: sqlite3.Connection) -> list[ChildRow]:
    """All children by number. What ledgers of an older schema do not have is None, or empty."""
    known = {name for _, name, *_ in database.execute("PRAGMA table_info(children)")}
    columns = [name for name in ChildRow.__dataclass_fields__ if name in known]
    found = database.execute(f"SELECT {', '.join(columns)} FROM children ORDER BY number")
    return [row_of(dict(zip(columns, values, strict=True))) for values in found]
