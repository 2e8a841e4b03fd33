"""A search that a report shows: its children, what its folder says of it, and which searches are alike."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

from backbones.files import decode_json
from runtime.folder import ALWAYS_FREE, plain
from runtime.yaml_files import read_mapping
from search.config import SpaceConfig
from search.ledger.located import Located
from search.ledger.reader import read_children
from search.ledger.rows import ChildRow, best_first, unique
from search.snapshot import Snapshot
from search.space import Space
from search.standing import Standing, standing

NOT_COMPARED = (*ALWAYS_FREE, "seed", "budget", "executor", "strict_hardware", "strategy", "ledger")
"""Keys in which searches may differ that are one experiment; the strategy names the group."""
PLACES_OF_DATA = ("root", "workers", "download")
"""Keys of `data` that say where it lies and how it is read, not what it is."""


@dataclass(frozen=True)
class History:
    """One search. rows: its children that are done, by number. config: empty where there is none.

    notes: what was missing or broken in its folder."""

    folder: Path
    rows: list[ChildRow]
    snapshot: Snapshot
    config: Mapping[str, Any]
    versions: Mapping[str, str]
    notes: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, found: Located) -> "History":
        """Raises FileNotFoundError, or ValueError for a file that is no ledger or has a newer schema."""
        folder, ledger, notes = found.folder, found.ledger, list[str]()
        snapshot = Snapshot.read(ledger)
        if found.elsewhere and snapshot.left_open:
            notes.append(f"{ledger} is a copy; the ledger itself is {found.elsewhere}")

        def attempt(name: str, read: Any, otherwise: Any) -> Any:
            try:
                return read(folder / name)
            except (OSError, ValueError) as error:
                notes.append(str(error))
                return otherwise

        return cls(
            folder,
            [row for row in read_children(ledger) if row.status == "done"],
            snapshot,
            attempt("config.yaml", lambda path: read_mapping(path, "configuration"), {}),
            attempt("versions.json", lambda path: decode_json(path, dict[str, str], "versions"), {}),
            notes,
        )

    @cached_property
    def standing(self) -> Standing:
        return standing(self.snapshot, self.folder)

    @property
    def strategy(self) -> str:
        return str((self.config.get("strategy") or {}).get("name", "unknown"))

    @property
    def seed(self) -> Any:
        return self.config.get("seed")

    @cached_property
    def space(self) -> Space | None:
        """None where the configuration does not say it, or the decisions are of another one."""
        try:
            space = Space.of(msgspec.convert(self.config.get("space") or {}, SpaceConfig))
        except (msgspec.ValidationError, ValueError):
            return None
        fits = all(len(row.decisions) == len(space.sizes) for row in self.rows)
        return space if fits else None

    @cached_property
    def unique(self) -> list[ChildRow]:
        """Children with a reward, the first of each cell, by number."""
        return unique(self.rows)

    @cached_property
    def best(self) -> list[ChildRow]:
        """The same, best first; of equal ones the lowest number first."""
        return best_first(self.rows)

    @cached_property
    def rewards(self) -> list[float]:
        """Of the children that have one, by number."""
        return [row.reward for row in self.rows if row.reward is not None]

    @property
    def cpu_hours(self) -> float:
        """CPU time of the children; wall time where an evaluator did not say it."""
        return sum(row.cpu_seconds or row.seconds for row in self.rows) / 3600


@dataclass(frozen=True)
class Group:
    """Searches that differ in nothing but their seeds. name: the strategy's; with a number if two have it."""

    name: str
    searches: Sequence[History]

    @property
    def seeds(self) -> list[Any]:
        return [search.seed for search in self.searches]


def grouped(searches: Sequence[History]) -> list[Group]:
    """Searches with equal strategies together, in the order in which they were named."""
    found: dict[str, list[History]] = {}
    for search in searches:
        alike = {"strategy": search.config.get("strategy"), **experiment(search)}
        # A folder without a configuration is like no other.
        key = json.dumps(plain(alike), sort_keys=True, default=str) if search.config else str(search.folder)
        found.setdefault(key, []).append(search)
    names = [members[0].strategy for members in found.values()]
    groups = []
    for place, (name, members) in enumerate(zip(names, found.values(), strict=True)):
        number = f" {names[: place + 1].count(name)}" if names.count(name) > 1 else ""
        groups.append(Group(f"{name}{number}", members))
    return groups


def experiment(search: History) -> dict[str, Any]:
    """What must be equal for searches to be compared."""
    found = {key: value for key, value in search.config.items() if key not in NOT_COMPARED}
    if isinstance(data := found.get("data"), Mapping):
        found["data"] = {key: value for key, value in data.items() if key not in PLACES_OF_DATA}
    return found
