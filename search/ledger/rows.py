"""The children of a ledger as values, and reading them: what a report needs, without tensors."""

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backbones.genotype import Genotype
from search.messages import Failure, Proposal, Result

SCHEMA = 1


@dataclass
class ChildRow:
    """A child as the ledger holds it; see the comments of its table. Virtual times in microseconds."""

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

    def finish_with(self, result: Result) -> None:
        """Takes over what became of the child, or of the one that it duplicates."""
        self.status = "done"
        self.reward, self.failure, self.detail = result.reward, result.failure, result.detail
        self.curve, self.peak_bytes = result.curve, result.peak_bytes
        self.seconds = result.seconds if self.original is None else 0.0

    @property
    def proposal(self) -> Proposal:
        return Proposal(self.number, self.genotype, self.decisions, self.log_prob)

    @property
    def result(self) -> Result:
        """Of a child that is done."""
        return Result(
            self.proposal, self.reward, self.failure, self.detail, self.curve, self.seconds, self.peak_bytes
        )


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
        if schema != SCHEMA:
            advice = "update celltransfer" if schema > SCHEMA else "it is not a search's file"
            raise ValueError(f"{path}: schema version {schema}, this version reads {SCHEMA}; {advice}")
    except sqlite3.DatabaseError as error:
        database.close()
        raise ValueError(f"{path}: not a search ledger: {error}") from None
    except ValueError:
        database.close()
        raise
    return database


def read_rows(database: sqlite3.Connection) -> list[ChildRow]:
    """All children by number."""
    columns = list(ChildRow.__dataclass_fields__)
    found = database.execute(f"SELECT {', '.join(columns)} FROM children ORDER BY number")
    return [_row(dict(zip(columns, values, strict=True))) for values in found]


def _row(columns: dict[str, Any]) -> ChildRow:
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
    return vars(row) | {
        "genotype": json.dumps(row.genotype.to_dict()),
        "decisions": json.dumps(row.decisions),
        "curve": json.dumps(row.curve),
        "failure": row.failure.value if row.failure else None,
        "alone": int(row.alone),
        "observed": int(row.observed),
    }
