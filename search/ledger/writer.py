"""The ledger: everything that a search must not forget, in one SQLite file.

One row per child; the newest strategy state and the SHA-256 of every state; facts; events. Each change is one
transaction, so a killed search finds itself between two steps, never within one. WAL lets reports read while
the search writes; synchronous FULL makes a commit survive a power cut.
"""

import fcntl
import hashlib
import json
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from search.ledger.reader import connect, read_rows
from search.ledger.rows import SCHEMA, TABLES, ChildRow, columns_of
from search.strategies.protocol import State

_OUTCOME = ("status", "reward", "failure", "detail", "curve", "seconds", "peak_bytes")


class Ledger:
    """The ledger of the one search that writes it.

    Raises ValueError for a file that is not a ledger, has a newer schema, or is written by another process.
    """

    def __init__(self, path: str | Path):
        path = Path(path)
        self._tensors: bytes | None = None
        self._lock = open(path.with_suffix(".lock"), "w")  # noqa: SIM115 - held until close, or death
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise ValueError(f"{path}: another process is running this search") from None
        if not path.exists():
            with closing(sqlite3.connect(path, isolation_level=None)) as database:
                database.execute("PRAGMA journal_mode = WAL")
                database.executescript(f"BEGIN; {TABLES} PRAGMA user_version = {SCHEMA}; COMMIT")
        self._database = connect(path)
        self._database.execute("PRAGMA synchronous = FULL")

    def close(self) -> None:
        self._database.close()
        self._lock.close()

    def rows(self) -> list[ChildRow]:
        return read_rows(self._database)

    def fact(self, name: str) -> Any:
        """None where it is not known."""
        row = self._database.execute("SELECT value FROM facts WHERE name = ?", [name]).fetchone()
        return None if row is None else json.loads(row[0])

    def state(self) -> State | None:
        """The newest strategy state; None before the first step."""
        row = self._database.execute("SELECT tensors, state_values FROM strategy").fetchone()
        return None if row is None else State(load_tensors(row[0]), json.loads(row[1]))

    def remember(self, facts: Mapping[str, Any]) -> None:
        with self._transaction() as database:
            _write_facts(database, facts)

    def step(self, consumed: Sequence[int], state: State, proposed: Sequence[ChildRow], group: int) -> None:
        """These results were consumed, this is the strategy now, these are the next children."""
        tensors = save_tensors(dict(sorted(state.tensors.items())))
        values = json.dumps(state.values, sort_keys=True)
        sha256 = hashlib.sha256(tensors + values.encode()).hexdigest()
        with self._transaction() as database:
            database.executemany(
                "UPDATE children SET observed = 1 WHERE number = ?", [(n,) for n in consumed]
            )
            if tensors == self._tensors:  # megabytes that change only with an update
                database.execute("UPDATE strategy SET state_values = ?", [values])
            else:
                database.execute("DELETE FROM strategy")
                database.execute("INSERT INTO strategy VALUES (?, ?)", [tensors, values])
            # A group that an extended budget completes has two states; the later one counts.
            database.execute("INSERT OR REPLACE INTO state_hashes VALUES (?, ?)", [group, sha256])
            for row in proposed:
                _insert(database, row)
        self._tensors = tensors

    def begin(self, number: int) -> None:
        """Counts an attempt before it starts, so that one which takes the process along counts, too."""
        with self._transaction() as database:
            database.execute(
                "UPDATE children SET status = 'running', attempts = attempts + 1 WHERE number = ?", [number]
            )

    def record(self, rows: Sequence[ChildRow], facts: Mapping[str, Any]) -> None:
        """The final result of a child and of its duplicates, as their rows have it."""
        with self._transaction() as database:
            for row in rows:
                columns = columns_of(row)
                values = [columns[name] for name in _OUTCOME]
                assignments = ", ".join(f"{name} = ?" for name in _OUTCOME)
                database.execute(f"UPDATE children SET {assignments} WHERE number = ?", [*values, row.number])
            _write_facts(database, facts)

    def requeue(self, number: int, *, alone: bool, uncount: bool, why: str) -> None:
        """Sends a child back. uncount: the attempt was broken off by us and does not count."""
        with self._transaction() as database:
            database.execute(
                "UPDATE children SET status = 'queued', alone = ?, attempts = attempts - ? WHERE number = ?",
                [int(alone), int(uncount), number],
            )
            _write_event(database, "requeued", {"child": number, "alone": alone, "why": why})

    def note(self, kind: str, detail: Mapping[str, Any]) -> None:
        with self._transaction() as database:
            _write_event(database, kind, detail)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield self._database
            self._database.execute("COMMIT")
        except BaseException:  # an interrupt, too, must not leave half a step to the next commit
            if self._database.in_transaction:  # SQLite itself rolls back when the disk is full
                self._database.execute("ROLLBACK")
            raise


def _insert(database: sqlite3.Connection, row: ChildRow) -> None:
    columns = columns_of(row)
    marks = ", ".join("?" * len(columns))
    database.execute(f"INSERT INTO children ({', '.join(columns)}) VALUES ({marks})", list(columns.values()))


def _write_facts(database: sqlite3.Connection, facts: Mapping[str, Any]) -> None:
    rows = [(name, json.dumps(value)) for name, value in facts.items()]
    database.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", rows)


def _write_event(database: sqlite3.Connection, kind: str, detail: Mapping[str, Any]) -> None:
    database.execute("INSERT INTO events VALUES (?, ?, ?)", [time.time(), kind, json.dumps(detail)])
