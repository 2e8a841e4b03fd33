"""Reading a ledger: what a report needs, without tensors."""

import sqlite3
from contextlib import closing
from pathlib import Path

from search.ledger.rows import SCHEMA, ChildRow, row_of


def read_children(path: str | Path) -> list[ChildRow]:
    """All children by number, read-only, also while the search runs.

    Raises FileNotFoundError, or ValueError for a file that is not a ledger or has a newer schema.
    """
    with closing(connect(Path(path), read_only=True)) as database:
        return read_rows(database)


def connect(path: Path, read_only: bool = False) -> sqlite3.Connection:
    """Raises FileNotFoundError, or ValueError for a file that is not a ledger or has a newer schema."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such ledger")
    # Without isolation_level=None the driver would open and commit transactions behind our back.
    mode = "ro" if read_only else "rw"
    database = sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None)
    try:
        schema = database.execute("PRAGMA user_version").fetchone()[0]
    except sqlite3.DatabaseError as error:
        database.close()
        raise ValueError(f"{path}: not a search ledger: {error}") from None
    if schema != SCHEMA:
        database.close()
        advice = "update celltransfer" if schema > SCHEMA else "it is not a search's file"
        raise ValueError(f"{path}: schema version {schema}, this version reads {SCHEMA}; {advice}")
    return database


def read_rows(database: sqlite3.Connection) -> list[ChildRow]:
    """All children by number."""
    columns = list(ChildRow.__dataclass_fields__)
    found = database.execute(f"SELECT {', '.join(columns)} FROM children ORDER BY number")
    return [row_of(dict(zip(columns, values, strict=True))) for values in found]
