"""The tables of a ledger, and a child as a value."""

import json
from dataclasses import dataclass
from typing import Any

from backbones.genotype import Genotype
from search.messages import ChildTask, Failure, Proposal, Result

SCHEMA = 1

TABLES = """
CREATE TABLE children (
    number INTEGER PRIMARY KEY,         -- 0, 1, ... in the order of proposing
    proposal_group INTEGER NOT NULL,    -- proposed together
    genotype TEXT NOT NULL,             -- JSON
    cell_key TEXT NOT NULL,             -- of the canonical genotype
    decisions TEXT NOT NULL,            -- JSON
    log_prob REAL,                      -- under the policy that drew it
    cost INTEGER NOT NULL,              -- predicted, microseconds
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
    peak_bytes INTEGER
) STRICT;
CREATE INDEX children_by_key ON children(cell_key);
CREATE TABLE strategy (tensors BLOB NOT NULL, state_values TEXT NOT NULL) STRICT;
CREATE TABLE state_hashes (proposal_group INTEGER PRIMARY KEY, sha256 TEXT NOT NULL) STRICT;
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;     -- value: JSON
CREATE TABLE events (time REAL NOT NULL, kind TEXT NOT NULL, detail TEXT NOT NULL) STRICT;  -- detail: JSON
"""


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
    peak_bytes: int | None = None

    def begin(self, seed: int) -> ChildTask:
        """queued -> running. Counts the attempt and returns it as a task."""
        task = ChildTask(self.proposal, seed, self.attempts, self.alone)
        self.status, self.attempts = "running", self.attempts + 1
        return task

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
        self.curve, self.peak_bytes = result.curve, result.peak_bytes
        self.seconds = result.seconds if self.original is None else 0.0

    def consume(self) -> Result:
        """done -> observed. Returns the result, for the strategy to learn from."""
        self.observed = True
        return self.result

    @property
    def proposal(self) -> Proposal:
        return Proposal(self.number, self.genotype, self.decisions, self.log_prob)

    @property
    def result(self) -> Result:
        """Of a child that is done."""
        return Result(
            self.proposal, self.reward, self.failure, self.detail, self.curve, self.seconds, self.peak_bytes
        )


def row_of(columns: dict[str, Any]) -> ChildRow:
    """The inverse of `columns_of`."""
    where = f"ledger, child {columns['number']}"
    parsed = {
        "genotype": Genotype.from_dict(json.loads(columns["genotype"]), where),
        "decisions": tuple(json.loads(columns["decisions"])),
        "curve": tuple(json.loads(columns["curve"])),
        "failure": Failure(columns["failure"]) if columns["failure"] else None,
        "alone": bool(columns["alone"]),
        "observed": bool(columns["observed"]),
    }
    return ChildRow(**{**columns, **parsed})


def columns_of(row: ChildRow) -> dict[str, Any]:
    """A child as the table `children` holds it."""
    encoded = {name: json.dumps(getattr(row, name)) for name in ("decisions", "curve")}
    return vars(row) | encoded | {"genotype": json.dumps(row.genotype.to_dict())}
