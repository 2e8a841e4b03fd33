"""Which children of a search are trained again: the best by reward, or those on its Pareto fronts."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import msgspec

from backbones.files import decode_json, read_json, write_atomically, write_json
from backbones.ranges import KEY, ConfigError
from backbones.words import counted
from runtime.folder import plain
from search.config import SearchConfig
from search.latency.config import LATENCY
from search.latency.predictor import LATENCY_MODEL, known_or_calibrated
from search.ledger.reader import read_children, read_fact
from search.ledger.rows import ChildRow, best_first
from search.pareto import pareto_ranks
from search.space import Space

log = logging.getLogger(__name__)

CELLS = "cells.json"
"""Which children of the search a rerank trains, chosen once."""
MODEL = "latency_model.json"
"""Of the milliseconds by which they were chosen, where the search has none."""


class _Chosen(msgspec.Struct):
    child: int
    cell_key: str


def scored(ledger: Path) -> list[ChildRow]:
    """The unique children with a reward, best first. Raises ConfigError where there is none."""
    if not (rows := best_first(read_children(ledger))):
        raise ConfigError(f"{ledger}: no child has a reward yet")
    return rows


def recorded_costs(rows: Sequence[ChildRow], cost: str, ledger: Path) -> list[float] | None:
    """The cost of each child as its search recorded it; None where milliseconds must be predicted.

    Raises ConfigError for another cost that not every child has."""
    costs = [row.costs[cost] for row in rows if cost in row.costs]
    if len(costs) == len(rows):
        return costs
    if cost == LATENCY:
        return None
    known = ", ".join(sorted(set.intersection(*(set(row.costs) for row in rows))))
    raise ConfigError(f"{KEY}cost = {cost!r}, which not every child of {ledger} has; all have {known}")


def predicted_costs(
    rows: Sequence[ChildRow], search: SearchConfig, ledger: Path, folder: Path
) -> list[float]:
    """Milliseconds by the model of the search, or by one that is made once and kept in `folder`."""
    path, latency = folder / MODEL, search.latency
    known = read_fact(ledger, LATENCY_MODEL) or (read_json(path, "latency model") if path.exists() else None)
    model = known_or_calibrated(known, str(path), Space.of(search.space), latency, search.seed)
    if known is None:
        write_json(path, plain(model))
    return [model.predict(row.genotype, latency) for row in rows]


def best_cells(rows: Sequence[ChildRow], top: int, costs: Sequence[float] | None = None) -> list[ChildRow]:
    """The `top` best of the children, best first.

    costs: of each child; then those on the front of accuracy against cost come first, then those on the next
    front, and so on."""
    if costs is None:
        return list(rows[:top])
    ranks = pareto_ranks([(row.accuracy or 0, cost) for row, cost in zip(rows, costs, strict=True)])
    order = sorted(range(len(rows)), key=lambda i: (ranks[i], -(rows[i].accuracy or 0), rows[i].number))
    return [rows[i] for i in order[:top]]


def choose(folder: Path, ledger: Path, best: Sequence[ChildRow]) -> Sequence[ChildRow]:
    """The children to train: `best`, or those that were the best when the rerank began.

    Raises ValueError where the ledger does not have those."""
    path = folder / CELLS
    if not path.exists():
        chosen = [{"child": row.number, "cell_key": row.cell_key} for row in best]
        write_atomically(path, json.dumps(chosen, indent=1))
        return best
    known = decode_json(path, list[_Chosen], "chosen cells")
    children = {row.number: row for row in read_children(ledger)}
    for each in known:
        if each.child not in children or children[each.child].cell_key != each.cell_key:
            raise ValueError(
                f"{path}: child {each.child} of {ledger} is not the cell {each.cell_key}, which was chosen "
                "when this rerank began: the search is another one; choose another run_dir"
            )
    numbers = {each.child for each in known}
    if newer := [str(row.number) for row in best if row.number not in numbers]:
        log.warning(
            "%s: goes on with the %s chosen when it began. Of the search as it is now it would choose "
            "others, too (%s): for those, choose another run_dir",
            *(folder, counted(len(known), "cell"), f"child {', '.join(newer[:8])}"),
        )
    return [children[each.child] for each in known]
