"""The ledger: everything that a search must not forget, in one SQLite file.

One row per child; the newest strategy state and the SHA-256 of every state; facts; events. Each change is one
transaction, so a killed search finds itself between two steps, never within one. WAL lets reports read while
the search writes; synchronous FULL makes a commit survive a power cut.
"""

import hashlib
import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from search.ledger.copying import copy_whole, made_whole
from search.ledger.reader import connect, damage_named, fact, is_ledger, read_rows
from search.ledger.rows import MIGRATIONS, SCHEMA, TABLES, ChildRow, columns_of, from_json
from search.messages import Site
from search.strategies.protocol import State

COPY_AFTER = 100
"""Transactions, of which a child takes two or three, until the copy of a ledger is made anew."""

_COLUMNS = tuple(ChildRow.__dataclass_fields__)
_CHANGING = _COLUMNS[_COLUMNS.index("status") :]
_SAVE = (
    f"INSERT INTO children ({', '.join(_COLUMNS)}) VALUES ({', '.join(f':{name}' for name in _COLUMNS)}) "
    f"ON CONFLICT (number) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in _CHANGING)}"
)


class _Tensors:
    """Tensors of a strategy as the ledger holds them."""

    def __init__(self, tensors: dict[str, Tensor], encoded: bytes):
        self.tensors, self.encoded, self.sha256 = tensors, encoded, hashlib.sha256(encoded)

    @classmethod
    def of(cls, state: State) -> "_Tensors":
        return cls(state.tensors, save_tensors(dict(sorted(state.tensors.items()))))


class Ledger:
    """The ledger of the one search that writes it: the process that owns its folder (`runtime.owner`).

    Raises ValueError for a file that is not a ledger, is damaged or has a newer schema.
    """

    def __init__(self, path: str | Path, copied_to: Path | None = None):
        """copied_to: file that is replaced by a copy every COPY_AFTER transactions and at the end."""
        self._path = Path(path)
        self._copied_to, self._uncopied = copied_to, 0
        self._written = _Tensors({}, b"")
        if not is_ledger(self._path):
            _make_empty(self._path)
        self._database = connect(self._path)
        with damage_named(self._path):
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")
        self._migrate()

    def _migrate(self) -> None:
        (schema,) = self._database.execute("PRAGMA user_version").fetchone()
        for old in range(schema, SCHEMA):
            with damage_named(self._path):
                self._database.executescript(
                    f"BEGIN IMMEDIATE; {MIGRATIONS[old]} PRAGMA user_version = {old + 1}; COMMIT"
                )

    def close(self) -> None:
        try:
            self.copy()
        finally:
            self._database.close()

    def copy(self) -> None:
        """Makes the copy new, where there is to be one."""
        if self._copied_to is not None:
            copy_whole(self._database, self._copied_to)
        self._uncopied = 0

    def rows(self) -> list[ChildRow]:
        with damage_named(self._path):
            return read_rows(self._database)

    def fact(self, name: str) -> Any:
        """None where it is not known."""
        with damage_named(self._path):
            return fact(self._database, name)

    def state(self) -> State | None:
        """The newest strategy state; None before the first step."""
        with damage_named(self._path):
            row = self._database.execute(
                "SELECT tensors.content, known.content FROM strategy_tensors tensors, strategy_values known"
            ).fetchone()
            return None if row is None else State(load_tensors(row[0]), from_json(row[1], "strategy"))

    def save(
        self,
        rows: Iterable[ChildRow] = (),
        *,
        facts: Mapping[str, Any] | None = None,
        events: Iterable[tuple[str, Any]] = (),
        begun: Iterable[int] = (),
        ended: Iterable[tuple[int, str, Site | None]] = (),
    ) -> None:
        """Writes children as they are now, new ones too, and what else became known with them.

        facts: by name. events: kind and detail. begun: children of which an attempt begins now.
        ended: children whose running attempt ends now, with its outcome and where it ran.
        """
        now = time.time()
        with self.transaction() as database:
            database.executemany(_SAVE, map(columns_of, rows))
            known = [(name, json.dumps(value)) for name, value in (facts or {}).items()]
            database.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", known)
            happened = [(now, kind, json.dumps(detail)) for kind, detail in events]
            database.executemany("INSERT INTO events VALUES (?, ?, ?)", happened)
            database.executemany(
                "INSERT INTO attempts (child, begun) VALUES (?, ?)", [(number, now) for number in begun]
            )
            for number, outcome, site in ended:
                values = {"ended": now, "outcome": outcome} | (asdict(site) if site else {})
                changed = ", ".join(f"{name} = :{name}" for name in values)
                database.execute(
                    f"UPDATE attempts SET {changed} WHERE child = :child AND ended IS NULL",
                    values | {"child": number},
                )

    def step(self, rows: Iterable[ChildRow], state: State, group: int) -> None:
        """Writes the children that were consumed or proposed, and the strategy that this made."""
        # Megabytes that change only with an update: neither encoded nor hashed nor written at other steps.
        written = self._written
        tensors = written if state.tensors is written.tensors else _Tensors.of(state)
        values = json.dumps(state.values, sort_keys=True)
        sha256 = tensors.sha256.copy()
        sha256.update(values.encode())
        with self.transaction() as database:
            database.executemany(_SAVE, map(columns_of, rows))
            if tensors.encoded != written.encoded:
                database.execute("DELETE FROM strategy_tensors")
                database.execute("INSERT INTO strategy_tensors VALUES (?)", [tensors.encoded])
            database.execute("DELETE FROM strategy_values")
            database.execute("INSERT INTO strategy_values VALUES (?)", [values])
            # A group that an extended budget completes has two states; the later one counts.
            database.execute("INSERT OR REPLACE INTO state_hashes VALUES (?, ?)", [group, sha256.hexdigest()])
        self._written = tensors

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing of what is executed on the connection inside."""
        with damage_named(self._path):
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
                self._database.execute("COMMIT")
                self._uncopied += 1
            except BaseException:  # an interrupt, too, must not leave half a step to the next commit
                if self._database.in_transaction:  # SQLite itself rolls back when the disk is full
                    self._database.execute("ROLLBACK")
                raise
        if self._uncopied >= COPY_AFTER:
            self.copy()


def _make_empty(path: Path) -> None:
    with made_whole(path) as database:
        database.execute("PRAGMA synchronous = FULL")
        database.executescript(f"BEGIN; {TABLES} PRAGMA user_version = {SCHEMA}; COMMIT")
