"""Trains given cells again: the best of a search for longer, or random ones to see what a search measures.

Each set of (cells, child settings, seed) is a search of its own in a subfolder, over a list of genotypes. So
it runs on every executor, survives kills and can be watched by `search.status` like any other.
"""

import dataclasses
import json
import logging
import shlex
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from backbones.files import write_atomically
from backbones.genotype import Genotype
from backbones.ranges import KEY, ConfigError
from backbones.words import counted
from celltransfer import program
from runtime.config import LoggerConfig
from runtime.folder import RunFolder
from runtime.owner import owned
from search import run as search_run
from search.config import BudgetConfig, SearchConfig
from search.ledger.reader import LEDGER, read_children
from search.ledger.rows import ChildRow, best_first
from search.messages import SearchPaused
from search.pareto import pareto_ranks
from search.rank_agreement import Agreement, agreement
from search.space import Space
from search.stored import stored_search
from search.strategies.config import RandomConfig
from search.studies_config import ProbeConfig, RerankConfig

log = logging.getLogger(__name__)

MAY_CHANGE = ("executor", "data.root", "data.workers", "data.download")


def rerank(config: RerankConfig) -> dict[str, Any]:
    """Trains the best unique cells of a search longer, with several seeds; writes the best one.

    Writes `cells/`, a folder per seed, `rerank.json` (all cells, best first), `genotype.json` and
    `metrics.json`. Raises as `search.run.run` does, and ConfigError where the search has no scored child.
    """
    chosen = best_cells(Path(config.dir) / LEDGER, config.top, config.by, config.cost)
    stored = stored_search(config.dir, run_dir=config.run_dir, strategy=None, executor=config.executor)
    child = dataclasses.replace(stored.child, stop_below=None, **_longer(config))
    with owned(config.run_dir):
        folder = RunFolder.open(config.run_dir, config, stage="rerank", may_change=MAY_CHANGE)
        files = _write_cells(folder.path, [row.genotype for row in chosen])
        runs = {}
        for seed in range(config.seeds):
            runs[seed] = _train(
                dataclasses.replace(stored, child=child, seed=seed), folder.path / f"seed{seed}", files
            )
            folder.log("rerank")
        ranking = _ranking(chosen, runs)
        write_atomically(folder.path / "rerank.json", json.dumps(ranking, indent=1))
        best = ranking[0]
        row = next(row for row in chosen if row.number == best["child"])
        origin = {
            "search": str(config.dir),
            "child": row.number,
            "reranked": best["reward"],
            "seeds": config.seeds,
        }
        Genotype(row.genotype.normal, row.genotype.reduction, origin).save(folder.path / "genotype.json")
        metrics = {"best_reward": best["reward"], "cells": len(chosen), "seeds": config.seeds}
        content = folder.finish("rerank", "validation", metrics, ranking=ranking)
    for each in ranking[:10]:
        log.info(
            "child %d: %.4g +- %.2g over %s (in the search %.4g)",
            *(each["child"], each["reward"], each["spread"], counted(config.seeds, "seed"), each["searched"]),
        )
    log.info("best: child %d; %s", best["child"], folder.path / "genotype.json")
    chosen_cell = shlex.quote(f"backbone.name={folder.path / 'genotype.json'}")
    log.info("next: %s", program(f"classification backbone=genotype {chosen_cell} data=…"))
    return content


def probe(config: ProbeConfig) -> dict[str, Any]:
    """Says how far a search's short training ranks random cells as a longer one does, before a search.

    Trains the same cells for `child.epochs` with two seeds and for `epochs` with one. Prints Kendall's tau of
    short against long, with its 95 % interval, and the noise floor: tau and spread of short against short.
    """
    space = Space.of(config.space)
    cells = [space.decode(space.sample(config.seed, number)) for number in range(config.cells)]
    longer = dataclasses.replace(config.child, epochs=config.epochs, stop_below=None)
    common = {name: getattr(config, name) for name in ("data", "space", "evaluator", "executor")}
    with owned(config.run_dir):
        folder = RunFolder.open(config.run_dir, config, stage="probe", may_change=MAY_CHANGE)
        files = _write_cells(folder.path, cells)
        rewards = {}
        for name, child, seed in (
            ("short", config.child, config.seed),
            ("short_again", config.child, config.seed + 1),
            ("long", longer, config.seed),
        ):
            search = SearchConfig(**common, run_dir="", strategy=None, child=child, seed=seed)
            rewards[name] = _rewards(_train(search, folder.path / name, files))
            folder.log("probe")
        scored = [n for n in range(len(cells)) if all(n in found for found in rewards.values())]
        if len(scored) < 3:
            raise SearchPaused(
                f"{folder.path}: {counted(len(scored), 'cell')} with all rewards, 3 are needed"
            )
        short, again, long = ([found[n] for n in scored] for found in rewards.values())
        proxy, noise = agreement(short, long, config.seed), agreement(short, again, config.seed)
        metrics = {
            **{f"proxy_{name}": value for name, value in proxy._asdict().items()},
            **{f"noise_{name}": value for name, value in noise._asdict().items()},
            "cells": len(scored),
            "short_spread_of_cells": stdev(short),
            "long_spread_of_cells": stdev(long),
        }
        content = folder.finish("probe", "validation", metrics)
    epochs = config.child.epochs, config.epochs
    log.info("%s, %d and %d epochs", counted(len(scored), "cell"), *epochs)
    log.info("short against long training: %s", _told(proxy))
    log.info("noise floor, short against short with another seed: %s", _told(noise))
    log.info(
        "cells differ by %.2g in short training, one score is uncertain by %.2g", stdev(short), noise.spread
    )
    if proxy.low > 0:
        log.info("next: a search with these children: %s", program("search data=…"))
    else:
        log.info("next: raise child.epochs or cells; an interval that reaches 0 shows no agreement")
    return content


def best_cells(ledger: Path, top: int, by: str, cost: str) -> list[ChildRow]:
    """The `top` best unique cells of a search, best first.

    by: `reward`, or `pareto`: the front of accuracy against `cost` first, then the next front, and so on."""
    rows = best_first(read_children(ledger))
    if not rows:
        raise ConfigError(f"{ledger}: no child has a reward yet")
    if by == "reward":
        return rows[:top]
    costs = [row.costs.get(cost) for row in rows]
    if None in costs:
        known = ", ".join(sorted(set.intersection(*(set(row.costs) for row in rows))))
        raise ConfigError(f"{KEY}cost = {cost!r}, which not every child of {ledger} has; all have {known}")
    ranks = pareto_ranks([(row.accuracy or 0, value or 0) for row, value in zip(rows, costs, strict=True)])
    order = sorted(range(len(rows)), key=lambda i: (ranks[i], -(rows[i].accuracy or 0), rows[i].number))
    return [rows[i] for i in order[:top]]


def _longer(config: RerankConfig) -> dict[str, Any]:
    return {name: value for name, value in vars(config.child).items() if value is not None}


def _write_cells(folder: Path, cells: Sequence[Genotype]) -> list[str]:
    files = [folder / "cells" / f"{number:04}.json" for number in range(len(cells))]
    files[0].parent.mkdir(exist_ok=True)
    for file, cell in zip(files, cells, strict=True):
        cell.save(file)
    return [str(file) for file in files]


def _train(search: SearchConfig, folder: Path, files: list[str]) -> list[ChildRow]:
    """Runs, or continues, the search that trains the cells in `files`; returns its children."""
    search_run.run(
        dataclasses.replace(
            search,
            run_dir=str(folder),
            strategy=RandomConfig(start=files),  # no others: the budget is their number
            budget=BudgetConfig(children=len(files), failures_in_a_row=len(files) + 1),
            window=len(files),
            logger=LoggerConfig(name="none"),
        )
    )
    return read_children(folder / LEDGER)


def _rewards(rows: Sequence[ChildRow]) -> dict[int, float]:
    return {row.number: row.reward for row in rows if row.reward is not None}


def _ranking(chosen: Sequence[ChildRow], runs: dict[int, list[ChildRow]]) -> list[dict[str, Any]]:
    """One entry per cell, best mean reward first; cells that failed with some seed come last."""
    found = [_rewards(rows) for rows in runs.values()]
    ranking: list[dict[str, Any]] = []
    for place, row in enumerate(chosen):
        rewards = [each[place] for each in found if place in each]
        ranking.append(
            {
                "child": row.number,
                "reward": fmean(rewards) if rewards else None,
                "spread": stdev(rewards) if len(rewards) > 1 else 0.0,
                "rewards": rewards,
                "searched": row.reward,
                "parameters": row.parameters,
                "multiply_adds": row.multiply_adds,
            }
        )
    whole = [entry for entry in ranking if len(entry["rewards"]) == len(runs)]
    if not whole:
        raise SearchPaused("no cell was scored with every seed")
    rest = [entry for entry in ranking if entry not in whole]
    return sorted(whole, key=lambda entry: -entry["reward"]) + rest


def _told(found: Agreement) -> str:
    return f"Kendall's tau {found.tau:.2f}, 95 % interval {found.low:.2f} to {found.high:.2f}"
