"""The tables of a ledger, and a child as a value."""

import json
import sqlite3
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from backbones.files import parse_json
from backbones.genotype import Genotype
from search.messages import COUNTS, Failure, Proposal, Result

SCHEMA = 2

ENDED = "ended"
"""Fact: why the newest run of the search ended; null while it runs, and for ever where it was killed. Older
ledgers do not have it."""
SPENT = "the budget is spent"
"""Its value where nothing was left to run."""
SHARED = "shared"
"""Fact: true in a copy that `search.share` wrote, which is read and not continued."""

ATTEMPTS = """
CREATE TABLE attempts (
    id INTEGER PRIMARY KEY,
    child INTEGER NOT NULL REFERENCES children(number),
    begun REAL NOT NULL,                -- Unix time, of the driver, as the next
    ended REAL,                         -- NULL while it runs
    outcome TEXT,                       -- 'done', a failure, or why it was broken off; NULL while it runs
    host TEXT, node TEXT, pid INTEGER, device TEXT, torch TEXT, capability TEXT     -- NULL where unknown
) STRICT;
CREATE INDEX attempts_by_child ON attempts(child);
"""
# Apart, because SQLite writes a changed row anew: megabytes at every step in one table.
STRATEGY = """
CREATE TABLE strategy_tensors (content BLOB NOT NULL) STRICT;       -- safetensors
CREATE TABLE strategy_values (content TEXT NOT NULL) STRICT;        -- JSON
"""

TABLES = (
    """
CREATE TABLE children (
    number INTEGER PRIMARY KEY,         -- 0, 1, ... in the order of proposing
    proposal_group INTEGER NOT NULL,    -- proposed together
    genotype TEXT NOT NULL,             -- JSON
    cell_key TEXT NOT NULL,             -- of the canonical genotype
    decisions TEXT NOT NULL,            -- JSON
    log_prob REAL,                      -- under the policy that drew it
    log_probs BLOB,                     -- of each decision, little-endian float32; NULL as in schema 1
    cost INTEGER NOT NULL,              -- finish - start, microseconds; predicted for those that run
    parameters INTEGER,                 -- of the child's network; NULL, as the next two, in schema 1
    multiply_adds INTEGER,              -- of one image
    activation_bytes INTEGER,           -- of one image
    start INTEGER NOT NULL,             -- virtual, microseconds
    finish INTEGER NOT NULL,            -- virtual, microseconds
    original INTEGER REFERENCES children(number),   -- lowest number with the same key, if a duplicate
    status TEXT NOT NULL CHECK (status IN ('queued', 'running', 'done')),
    attempts INTEGER NOT NULL DEFAULT 0,            -- runs begun
    alone INTEGER NOT NULL DEFAULT 0,               -- 1: failed once, to be repeated alone on a device
    observed INTEGER NOT NULL DEFAULT 0,            -- 1: the strategy has learned from it
    reward REAL,
    failure TEXT,
    detail TEXT NOT NULL DEFAULT '',
    curve TEXT NOT NULL DEFAULT '[]',               -- JSON, validation accuracy per epoch
    seconds REAL NOT NULL DEFAULT 0,                -- real, of the attempt that counted; 0 for a duplicate
    cpu_seconds REAL NOT NULL DEFAULT 0,            -- likewise
    peak_bytes INTEGER,
    metrics TEXT NOT NULL DEFAULT '{}'              -- JSON, numbers by name
) STRICT;
CREATE INDEX children_by_key ON children(cell_key);
"""
    + ATTEMPTS
    + STRATEGY
    + """
CREATE TABLE state_hashes (proposal_group INTEGER PRIMARY KEY, sha256 TEXT NOT NULL) STRICT;
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;     -- value: JSON
CREATE TABLE events (time REAL NOT NULL, kind TEXT NOT NULL, detail TEXT NOT NULL) STRICT;  -- detail: JSON
"""
)

MIGRATIONS = {
    1: """
ALTER TABLE children ADD COLUMN log_probs BLOB;
ALTER TABLE children ADD COLUMN parameters INTEGER;
ALTER TABLE children ADD COLUMN multiply_adds INTEGER;
ALTER TABLE children ADD COLUMN activation_bytes INTEGER;
ALTER TABLE children ADD COLUMN cpu_seconds REAL NOT NULL DEFAULT 0;
ALTER TABLE children ADD COLUMN metrics TEXT NOT NULL DEFAULT '{}';
"""
    + ATTEMPTS
    + STRATEGY
    + """
INSERT INTO strategy_tensors SELECT tensors FROM strategy;
INSERT INTO strategy_values SELECT state_values FROM strategy;
DROP TABLE strategy;
""",
}
"""What makes a ledger of each older schema one of the next."""


@dataclass
class ChildRow:
    """A child as the ledger holds it; see the comments of its table. Virtual times in microseconds.

    The fields before `status` are fixed when the child is proposed. The methods are its transitions;
    `Ledger.save` writes a row that they changed.
    """

    number: int
    proposal_group: int
    genotype: Genotype
    cell_key: str
    decisions: tuple[int, ...]
    log_prob: float | None
    cost: int
    start: int
    finish: int
    log_probs: tuple[float, ...] | None = None
    parameters: int | None = None
    multiply_adds: int | None = None
    activation_bytes: int | None = None
    original: int | None = None
    status: str = "queued"
    attempts: int = 0
    alone: bool = False
    observed: bool = False
    reward: float | None = None
    failure: Failure | None = None
    detail: str = ""
    curve: tuple[float, ...] = ()
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_bytes: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)

    def begin(self) -> None:
        """queued -> running. Counts the attempt."""
        self.status, self.attempts = "running", self.attempts + 1

    def requeue(self, *, alone: bool = False, uncount: bool = False) -> None:
        """running -> queued, to be repeated.

        alone: from now on on a device of its own. uncount: we broke the attempt off, so it does not count.
        """
        self.status, self.alone = "queued", self.alone or alone
        self.attempts -= int(uncount)

    def finish_with(self, result: Result) -> None:
        """-> done. Takes the result of the child, or of the one that it duplicates."""
        self.status = "done"
        self.reward, self.failure, self.detail = result.reward, result.failure, result.detail
        self.curve, self.peak_bytes, self.metrics = result.curve, result.peak_bytes, result.metrics
        ran = self.original is None
        self.seconds, self.cpu_seconds = (result.seconds, result.cpu_seconds) if ran else (0.0, 0.0)

    def consume(self) -> Result:
        """done -> observed. Returns the result, for the strategy to learn from."""
        self.observed = True
        return self.result

    @property
    def proposal(self) -> Proposal:
        return Proposal(self.number, self.genotype, self.decisions, self.log_prob, self.log_probs)

    @property
    def result(self) -> Result:
        """Of a child that is done."""
        shared = {name: getattr(self, name) for name in _OF_RESULT}
        return Result(self.proposal, **shared)

    @property
    def costs(self) -> dict[str, float]:
        """What the child costs, by name: the counts of its network, and all its metrics."""
        counts = {name: getattr(self, name) for name in COUNTS}
        return {name: value for name, value in counts.items() if value is not None} | dict(self.metrics)

    @property
    def accuracy(self) -> float | None:
        """The metric of that name; the reward where the evaluator gave none, and None for a failed child."""
        return self.metrics.get("accuracy", self.reward)


_IN_JSON = ("genotype", "decisions", "curve", "metrics")
_OF_RESULT = tuple(ChildRow.__dataclass_fields__.keys() & Result.__dataclass_fields__.keys())


class Scored(Protocol):
    """What says whether a child is the first of its cell, and how good it is."""

    @property
    def number(self) -> int: ...
    @property
    def original(self) -> int | None: ...
    @property
    def reward(self) -> float | None: ...


Row = TypeVar("Row", bound=Scored)


def unique(rows: Iterable[Row]) -> list[Row]:
    """Those with a reward, the first child of each cell, in their order."""
    return [row for row in rows if row.reward is not None and row.original is None]


def best_first(rows: Iterable[Row]) -> list[Row]:
    """The unique ones, best first; of equal ones the lowest number first."""
    return sorted(unique(rows), key=lambda row: (-(row.reward or 0.0), row.number))


def row_of(columns: dict[str, Any]) -> ChildRow:
    """The inverse of `columns_of`. Raises as `from_json`."""
    where = f"ledger, child {columns['number']}"
    known = {
        name: from_json(columns.get(name, "{}"), f"child {columns['number']}: {name}") for name in _IN_JSON
    }
    parsed = {
        "genotype": Genotype.from_dict(known["genotype"], where),
        "decisions": tuple(known["decisions"]),
        "log_probs": _floats(columns.get("log_probs")),
        "curve": tuple(known["curve"]),
        "metrics": known["metrics"],
        "failure": Failure(columns["failure"]) if columns["failure"] else None,
        "alone": bool(columns["alone"]),
        "observed": bool(columns["observed"]),
    }
    return ChildRow(**{**columns, **parsed})


def columns_of(row: ChildRow) -> dict[str, Any]:
    """A child as the table `children` holds it."""
    encoded = {name: _json(getattr(row, name)) for name in ("decisions", "curve", "metrics")}
    log_probs = None if row.log_probs is None else struct.pack(f"<{len(row.log_probs)}f", *row.log_probs)
    return vars(row) | encoded | {"genotype": _json(row.genotype.to_dict()), "log_probs": log_probs}


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))  # of 20,000 children the spaces are 10 MB


def from_json(text: str, where: str) -> Any:
    """A value as a ledger holds it. where: what a message calls it. Raises sqlite3.DataError, as SQLite does
    for other damage."""
    try:
        return parse_json(text, f"{where}: expected JSON")
    except ValueError as error:
        raise sqlite3.DataError(str(error)) from None


def _floats(content: bytes | None) -> tuple[float, ...] | None:
    return None if content is None else struct.unpack(f"<{len(content) // 4}f", content)
