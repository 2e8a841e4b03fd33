"""Trains the best cells of a search for longer and with several seeds, and chooses among them."""

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import msgspec

from backbones.files import decode_json, write_atomically, write_json
from backbones.genotype import Genotype
from backbones.ranges import KEY, ConfigError
from backbones.words import counted
from celltransfer import program
from classification.config import RecipeConfig
from runtime.folder import RunFolder
from runtime.overrides import override
from runtime.owner import owned
from search.chance import FACT, at_chance
from search.command_words import data_words
from search.config import BudgetConfig
from search.ledger.located import located
from search.ledger.reader import LEDGER, read_children, read_fact
from search.ledger.rows import ChildRow, best_first
from search.messages import SearchPaused
from search.pareto import pareto_ranks
from search.stored import stored_search
from search.studies import MAY_CHANGE, train, write_cells
from search.studies_config import RerankConfig

log = logging.getLogger(__name__)

CELLS = "cells.json"
"""Which children of the search a rerank trains, chosen once."""


class _Chosen(msgspec.Struct):
    child: int
    cell_key: str


def rerank(config: RerankConfig) -> dict[str, Any]:
    """Trains the best unique cells of a search longer, with several seeds; writes the best one.

    The cells are chosen when the rerank begins, and stay these when the search goes on. The seeds are those
    after the search's own, whose held-out images chose the cells. The reward is the search's: its objective
    holds. Writes `cells.json`, `cells/`, a folder per seed, `rerank.json` (all cells, best first),
    `genotype.json` and `metrics.json`. Raises as `search.run.run` does, and ConfigError where the search has
    no scored child.
    """
    found = located(Path(config.dir))
    ledger = found.ledger
    best = best_cells(ledger, config.top, config.by, config.cost)
    budget = BudgetConfig(max_attempts=config.budget.max_attempts)
    changes = {"run_dir": config.run_dir, "strategy": None, "executor": config.executor, "budget": budget}
    stored = stored_search(found.folder, **changes)
    child = dataclasses.replace(stored.child, stop_below=None, **_longer(config))
    with owned(config.run_dir):
        folder = RunFolder.open(config.run_dir, config, stage="rerank", may_change=MAY_CHANGE)
        chosen = _chosen(folder.path, ledger, best)
        files = write_cells(folder.path, [row.genotype for row in chosen])
        names = [f"child {row.number} of the search" for row in chosen]
        runs = []
        for number in range(config.seeds):
            seed = stored.seed + 1 + number
            cells = counted(len(chosen), "cell")
            log.info("training %d of %d: %s with seed %d", number + 1, config.seeds, cells, seed)
            search = dataclasses.replace(stored, child=child, seed=seed)
            runs.append(train(search, folder.path / f"seed{seed}", files, names))
            folder.log("rerank")
        ranking = ranked(chosen, runs)
        write_json(folder.path / "rerank.json", ranking)
        first = ranking[0]
        genotype = next(row.genotype for row in chosen if row.number == first["child"])
        origin = {
            "search": str(config.dir),
            "child": first["child"],
            "reranked": first["reward"],
            "seeds": config.seeds,
        }
        Genotype(genotype.normal, genotype.reduction, origin).save(folder.path / "genotype.json")
        metrics = {
            "best_reward": first["reward"],
            "best_accuracy": first["accuracy"],
            "cells": len(chosen),
            "seeds": config.seeds,
        }
        content = folder.finish("rerank", "validation", metrics, ranking=ranking)
    for each in ranking[:10]:
        log.info("%s", _told(each, weighed=stored.objective.cost is not None))
    if (warning := _at_chance(folder.path / f"seed{stored.seed + 1}", runs)) is not None:
        log.warning("%s", warning)
    log.info("best: child %d; %s", first["child"], folder.path / "genotype.json")
    words = ["backbone=genotype", override("backbone.name", folder.path / "genotype.json")]
    log.info("a classifier of it trains for %d epochs unless recipe.epochs=… is added", RecipeConfig().epochs)
    log.info("next: %s", program(" ".join(["classification", *words, *data_words(stored.data)])))
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


def ranked(chosen: Sequence[ChildRow], runs: Sequence[Mapping[str, ChildRow]]) -> list[dict[str, Any]]:
    """One entry per cell, best mean reward first; cells that failed with some seed come last.

    chosen: the cells, as the search scored them. runs: for each seed the children by cell. An entry's
    `spread` is the standard deviation over the seeds, None where fewer than two of them scored the cell.
    """
    ranking: list[dict[str, Any]] = []
    for row in chosen:
        again = [run[row.cell_key] for run in runs if row.cell_key in run]
        rewards = [each.reward for each in again if each.reward is not None]
        accuracies = [each.accuracy for each in again if each.accuracy is not None]
        ranking.append(
            {
                "child": row.number,
                "cell_key": row.cell_key,
                "reward": fmean(rewards) if rewards else None,
                "spread": stdev(rewards) if len(rewards) > 1 else None,
                "accuracy": fmean(accuracies) if accuracies else None,
                "rewards": rewards,
                "searched": row.reward,
                "searched_accuracy": row.accuracy,
                "parameters": row.parameters,
                "multiply_adds": row.multiply_adds,
            }
        )
    whole = [entry for entry in ranking if len(entry["rewards"]) == len(runs)]
    if not whole:
        raise SearchPaused("no cell was scored with every seed")
    rest = [entry for entry in ranking if entry not in whole]
    return sorted(whole, key=lambda entry: -entry["reward"]) + rest


def _longer(config: RerankConfig) -> dict[str, Any]:
    return {name: value for name, value in vars(config.child).items() if value is not None}


def _chosen(folder: Path, ledger: Path, best: Sequence[ChildRow]) -> Sequence[ChildRow]:
    """The children to train: `best`, or those that were the best when the rerank began.

    Raises ValueError where the ledger does not have those."""
    path = folder / CELLS
    if not path.exists():
        chosen = [{"child": row.number, "cell_key": row.cell_key} for row in best]
        write_atomically(path, json.dumps(chosen, indent=1))
        return best
    known = decode_json(path, list[_Chosen], "chosen cells")
    rows = {row.number: row for row in read_children(ledger)}
    for each in known:
        if each.child not in rows or rows[each.child].cell_key != each.cell_key:
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
    return [rows[each.child] for each in known]


def _at_chance(trained: Path, runs: Sequence[Mapping[str, ChildRow]]) -> str | None:
    """As `at_chance`, of all trainings. trained: folder of one of them."""
    rows = [row for run in runs for row in run.values()]
    scores = [row.accuracy for row in rows if row.accuracy is not None]
    facts = {FACT: read_fact(trained / LEDGER, FACT)}
    return at_chance(scores, facts, f"the {counted(len(scores), 'training run')}")


def _told(entry: Mapping[str, Any], *, weighed: bool) -> str:
    """One cell in a line. weighed: the reward is not the accuracy alone."""
    if entry["reward"] is None:
        return f"child {entry['child']}: failed with every seed"
    seeds = counted(len(entry["rewards"]), "seed")
    over = (
        f"mean over {seeds}, standard deviation {entry['spread']:.2g}"
        if entry["spread"] is not None
        else seeds
    )
    reward, searched = f"{entry['reward']:.4g} ({over})", f"{entry['searched']:.4g}"
    if weighed:
        reward = f"reward {reward}, accuracy {entry['accuracy']:.4g}"
        searched = f"reward {searched}, accuracy {entry['searched_accuracy']:.4g}"
    return f"child {entry['child']}: {reward}; in the search {searched}"
