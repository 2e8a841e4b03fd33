"""Trains given cells again, as a search of its own over a list of genotypes.

So a study runs on every executor and survives kills; `search.status` shows each of its trainings by that
one's folder. `search.reranking` and `search.probing` are the studies.
"""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

from backbones.genotype import Genotype
from runtime.config import LoggerConfig
from search import run as search_run
from search.config import MOST_WINDOW, SearchConfig
from search.ledger.reader import LEDGER, read_children
from search.ledger.rows import ChildRow
from search.naming import Naming
from search.strategies.config import RandomConfig

log = logging.getLogger(__name__)

MAY_CHANGE = ("budget", "executor", "data.root", "data.workers", "data.download")
"""Keys that do not make another study of it."""


def write_cells(folder: Path, cells: Sequence[Genotype]) -> list[str]:
    """Writes each cell into `cells/`; returns the files."""
    files = [folder / "cells" / f"{number:04}.json" for number in range(len(cells))]
    files[0].parent.mkdir(exist_ok=True)
    for file, cell in zip(files, cells, strict=True):
        cell.save(file)
    return [str(file) for file in files]


def train(
    search: SearchConfig, folder: Path, files: Sequence[str], also: Sequence[str] = ()
) -> dict[str, ChildRow]:
    """Runs, or continues, the search that trains the cells in `files`; returns its children by cell.

    also: what each cell is called elsewhere, such as `child 7 of the search`.

    Raises as `search.run.run` does, and ValueError where the folder holds trainings of other cells."""
    names = [f"cell {number} of {len(files)}" for number in range(1, len(files) + 1)]
    if also:
        names = [f"{name} ({other})" for name, other in zip(names, also, strict=True)]
    search_run.run(
        dataclasses.replace(
            search,
            run_dir=str(folder),
            strategy=RandomConfig(start=list(files)),  # no others: the budget is their number
            budget=dataclasses.replace(search.budget, children=len(files), failures_in_a_row=len(files) + 1),
            window=MOST_WINDOW,  # nothing is learned, so nobody needs to wait
            logger=LoggerConfig(name="none"),
        ),
        naming=Naming(tuple(names)),
    )
    rows = {row.cell_key: row for row in read_children(folder / LEDGER)}
    if others := rows.keys() - {Genotype.load(file).key for file in files}:
        raise ValueError(
            f"{folder} holds the training of other cells than those of this study, such as {min(others)}; "
            "choose another run_dir"
        )
    return rows
