"""One moment of a ledger: what a status shows, without genotypes and tensors, also while the search runs."""

import sqlite3
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from search.estimate import Pace
from search.ledger.reader import connect, damage_named
from search.ledger.rows import SHARED, best_first, from_json
from search.messages import Failure

LATE = 100
"""Newest children with a reward whose mean is shown."""


class Child(NamedTuple):
    """Columns of the table `children`; see `search.ledger.rows`."""

    number: int
    cell_key: str
    original: int | None
    status: str
    attempts: int
    cost: int
    log_prob: float | None
    reward: float | None
    failure: str | None
    detail: str
    seconds: float


class Attempt(NamedTuple):
    """Columns of the table `attempts`; see `search.ledger.rows`."""

    child: int
    begun: float
    ended: float | None
    outcome: str | None
    host: str | None
    node: str | None
    device: str | None
    torch: str | None
    capability: str | None


@dataclass(frozen=True)
class Snapshot:
    """Children by number, attempts as they began, facts by name, events in their order.

    epochs: how many children were trained for so many epochs, duplicates left out."""

    children: list[Child]
    attempts: list[Attempt]
    facts: dict[str, Any]
    events: list[tuple[float, str, Any]]
    epochs: Mapping[float, int]

    @classmethod
    def read(cls, path: str | Path) -> "Snapshot":
        """Raises FileNotFoundError, or ValueError for a file that is no ledger or has a newer schema."""
        path = Path(path)
        with closing(connect(path, read_only=True)) as database, damage_named(path):
            database.execute("BEGIN")  # all of one moment
            return cls(
                [Child(*row) for row in _select(database, Child, "children", "number")],
                [Attempt(*row) for row in _select(database, Attempt, "attempts", "id")],
                {
                    name: from_json(value, f"fact {name}")
                    for name, value in database.execute("SELECT * FROM facts")
                },
                [
                    (time, kind, from_json(detail, f"event {kind}"))
                    for time, kind, detail in _events(database)
                ],
                dict(_epochs(database)),
            )

    @cached_property
    def asked(self) -> dict[str, Any]:
        """Budget of the newest start; empty where it is unknown."""
        started = [detail for _, kind, detail in self.events if kind == "started"]
        return started[-1].get("budget", {}) if started else {}

    @property
    def budget(self) -> int:
        """Children that the newest start was to bring the search to; those there are where it is unknown."""
        return max(len(self.children), self.asked.get("children") or 0)

    @property
    def left_open(self) -> bool:
        """Whether the search has not finished its budget, as far as the ledger knows."""
        finished = self.facts.get("finished")
        if finished is None or not self.asked:
            return finished is None or any(row.status != "done" for row in self.children)
        return finished != self.asked

    @property
    def shared(self) -> bool:
        """Whether this is a copy that `search.share` wrote."""
        return bool(self.facts.get(SHARED))

    @property
    def seconds(self) -> float:
        """Wall time of the search so far."""
        return float(self.facts.get("seconds") or 0)

    @property
    def spent(self) -> str | None:
        """The key of the budget that is used up, as far as the ledger knows; None while it is not."""
        if self.children and len(self.children) >= self.budget and self.count("done") == len(self.children):
            return "children"
        hours = self.asked.get("hours")
        return "hours" if hours is not None and self.seconds >= 3600 * hours else None

    def count(self, status: str) -> int:
        """Children that are `queued`, `running` or `done`."""
        return sum(row.status == status for row in self.children)

    @cached_property
    def best(self) -> list[Child]:
        """Those with a reward, each cell once, best first; of equal ones the lowest number first."""
        return best_first(self.children)

    @cached_property
    def late(self) -> list[float]:
        """Rewards of the LATE newest children that have one."""
        return [row.reward for row in self.children if row.reward is not None][-LATE:]

    @property
    def entropy(self) -> float | None:
        """Of the policy that proposed the LATE newest children, in nats; None for a strategy without one.

        An estimate: the mean of the negative log-probabilities of what it drew."""
        log_probs = [row.log_prob for row in self.children if row.log_prob is not None][-LATE:]
        return -statistics.fmean(log_probs) if log_probs else None

    @property
    def failures(self) -> Counter[str]:
        """Failed children by kind, without those that were rejected."""
        kinds = (row.failure for row in self.children if row.failure and row.failure != Failure.REJECTED)
        return Counter(kinds)

    @property
    def rejected(self) -> int:
        return sum(row.failure == Failure.REJECTED for row in self.children)

    @property
    def duplicates(self) -> int:
        return sum(row.original is not None for row in self.children)

    def seconds_left(self, now: float, *, alive: bool) -> float | None:
        """Estimated wall time to the end of the budget; None before any child has run. now: Unix time.

        alive: the search runs. On as many workers as run children now; if none does, as many as there were
        on average."""
        pace = Pace(self.budget)
        took = {each.child: each.ended - each.begun for each in self.attempts if each.ended is not None}
        for row in self.children:
            runs = row.original is None and row.failure != Failure.REJECTED
            pace.enter(row.cost, runs=runs)
            if runs and row.status == "done":
                pace.finish(row.cost, row.seconds or took.get(row.number, 0.0))
        costs = {row.number: row.cost for row in self.children}
        unended = [each for each in self.attempts if each.ended is None] if alive else []
        running = [(costs.get(each.child, 0), max(0.0, now - each.begun)) for each in unended]
        left = pace.seconds_left(len(running) or self._mean_workers(), running)
        hours = self.asked.get("hours")
        return left if left is None or hours is None else min(left, max(0.0, 3600 * hours - self.seconds))

    def _mean_workers(self) -> int:
        busy = sum(each.ended - each.begun for each in self.attempts if each.ended is not None)
        return max(1, round(busy / max(1.0, self.seconds)))


def _select(database: sqlite3.Connection, kind: type[tuple], table: str, order: str) -> sqlite3.Cursor:
    """Older ledgers have no table of attempts."""
    names: tuple[str, ...] = kind._fields  # type: ignore[attr-defined]
    known = database.execute("SELECT count(*) FROM sqlite_master WHERE name = ?", [table]).fetchone()[0]
    if not known:
        return database.execute("SELECT 1 WHERE 0")
    return database.execute(f"SELECT {', '.join(names)} FROM {table} ORDER BY {order}")


def _events(database: sqlite3.Connection) -> sqlite3.Cursor:
    return database.execute("SELECT time, kind, detail FROM events ORDER BY rowid")


def _epochs(database: sqlite3.Connection) -> Iterable[tuple[float, int]]:
    known = {name for _, name, *_ in database.execute("PRAGMA table_info(children)")}
    if "metrics" not in known:  # in ledgers of schema 1
        return ()
    trained = "SELECT json_extract(metrics, '$.epochs') AS epochs, count(*) FROM children"
    return database.execute(f"{trained} WHERE epochs IS NOT NULL AND original IS NULL GROUP BY epochs")
