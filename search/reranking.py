"""Trains the best cells of a search for longer and with several seeds, and chooses among them."""

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from backbones.files import write_json
from backbones.genotype import Genotype
from backbones.ranges import under
from backbones.words import counted
from celltransfer import program
from classification.config import RecipeConfig
from runtime.folder import RunFolder
from runtime.overrides import override
from runtime.owner import owned
from search.chance import FACT, at_chance
from search.choosing import best_cells, choose, predicted_costs, recorded_costs, scored
from search.command_words import data_words
from search.config import BudgetConfig, SearchConfig
from search.latency.config import LATENCY
from search.latency.kept import latencies
from search.latency.measure import check_engine
from search.ledger.located import located
from search.ledger.reader import LEDGER, read_fact
from search.ledger.rows import ChildRow
from search.messages import SearchPaused
from search.pareto import on_front
from search.stored import stored_search
from search.studies import MAY_CHANGE, train, write_cells
from search.studies_config import RerankConfig

log = logging.getLogger(__name__)


def rerank(config: RerankConfig) -> dict[str, Any]:
    """Trains the best unique cells of a search longer, with several seeds; writes the best one.

    The cells are chosen when the rerank begins, and stay these when the search goes on. The seeds are those
    after the search's own, whose held-out images chose the cells. The reward is the search's: its objective
    holds. Where the cost is `latency_ms`, the cells are timed, too. Writes `cells.json`, `cells/`, a folder
    per size and seed, `rerank.json` (all cells, best first), `genotype.json` and `metrics.json`. Raises as
    `search.run.run` does, and ConfigError where the search has no scored child.
    """
    found = located(Path(config.dir))
    ledger, search = found.ledger, _search(config, found.folder)
    timed = config.by == "pareto" and config.cost == LATENCY
    if timed:
        check_engine(search.latency)
    sizes = [(size, _sized(search, size)) for size in config.sizes.all()]
    rows = scored(ledger)
    costs = recorded_costs(rows, config.cost, ledger) if config.by == "pareto" else None
    with owned(config.run_dir):
        folder = RunFolder.open(config.run_dir, config, stage="rerank", may_change=MAY_CHANGE)
        if timed and costs is None:
            costs = predicted_costs(rows, search, ledger, folder.path)
        chosen = choose(folder.path, ledger, best_cells(rows, config.top, costs))
        files = write_cells(folder.path, [row.genotype for row in chosen])
        ranking = []
        for size, sized in sizes:
            cells = entries(chosen, [*_trainings(folder, sized, config.seeds, size, files, chosen)])
            if timed:
                times = latencies(folder.path, [row.genotype for row in chosen], sized.latency)
                cells = [cell | {LATENCY: time} for cell, time in zip(cells, times, strict=True)]
            ranking += [size | cell for cell in cells]
        ranking = ranked(ranking, config.seeds)
        if timed:
            front = on_front([(entry["accuracy"], entry[LATENCY]) for entry in ranking])
            ranking = [entry | {"front": is_on} for entry, is_on in zip(ranking, front, strict=True)]
        write_json(folder.path / "rerank.json", ranking)
        content = _finish(config, folder, chosen, ranking)
    weighed = search.objective.cost is not None
    for each in ranking[:10]:
        log.info("%s", _told(each, weighed=weighed))
    if (warning := _at_chance(folder.path / _place(sizes[0][0], search.seed + 1), ranking)) is not None:
        log.warning("%s", warning)
    if timed:
        log.info("accuracy against milliseconds, the front:")
        for each in (entry for entry in ranking if entry["front"]):
            log.info("%6.1f ms  %s", each[LATENCY], _told(each, weighed=weighed))
    log.info("best: child %d%s; %s", ranking[0]["child"], _size(ranking[0]), folder.path / "genotype.json")
    words = ["backbone=genotype", override("backbone.name", folder.path / "genotype.json")]
    words += [f"backbone.{name}={ranking[0][name]}" for name in sizes[0][0]]
    log.info("a classifier of it trains for %d epochs unless recipe.epochs=… is added", RecipeConfig().epochs)
    log.info("next: %s", program(" ".join(["classification", *words, *data_words(search.data)])))
    return content


def _search(config: RerankConfig, folder: Path) -> SearchConfig:
    """The search with what this rerank changes of all its children."""
    budget = BudgetConfig(max_attempts=config.budget.max_attempts)
    changes = {"run_dir": config.run_dir, "strategy": None, "executor": config.executor, "budget": budget}
    stored = stored_search(folder, **changes)
    child = dataclasses.replace(stored.child, stop_below=None, **_given(config.child))
    latency = dataclasses.replace(stored.latency, **_given(config.latency))
    # A time is the same with every seed: only a reward that it is part of needs it in each training.
    metric = stored.metric if stored.objective.cost == LATENCY else None
    return dataclasses.replace(stored, child=child, latency=latency, metric=metric)


def _given(changes: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(changes).items() if value is not None}


def _sized(search: SearchConfig, size: Mapping[str, Any]) -> SearchConfig:
    """The search with children and timed networks of that size. Raises ConfigError for none that can be."""
    with under("sizes"):
        latency = dataclasses.replace(search.latency, **size)
    return dataclasses.replace(search, child=dataclasses.replace(search.child, **size), latency=latency)


def _trainings(
    folder: RunFolder,
    search: SearchConfig,
    seeds: int,
    size: Mapping[str, Any],
    files: Sequence[str],
    chosen: Sequence[ChildRow],
) -> Iterator[Mapping[str, ChildRow]]:
    """For each seed the trained children by cell."""
    names = [f"child {row.number} of the search" for row in chosen]
    for number in range(1, seeds + 1):
        seed, cells = search.seed + number, counted(len(chosen), "cell")
        log.info("training %d of %d: %s with seed %d%s", number, seeds, cells, seed, _size(size))
        yield train(dataclasses.replace(search, seed=seed), folder.path / _place(size, seed), files, names)
        folder.log("rerank")


def _place(size: Mapping[str, Any], seed: int) -> str:
    """The subfolder of one training: `seed1`, or `filters16_seed1`."""
    return "_".join([*(f"{name}{value}" for name, value in size.items()), f"seed{seed}"])


def _at_chance(trained: Path, ranking: Sequence[Mapping[str, Any]]) -> str | None:
    """As `at_chance`, of all trainings. trained: folder of one of them."""
    scores = [
        reward for entry in ranking for reward in entry["rewards"]
    ]  # without an objective, as accuracies
    facts = {FACT: read_fact(trained / LEDGER, FACT)}
    return at_chance(scores, facts, f"the {counted(len(scores), 'training run')}")


def _finish(
    config: RerankConfig,
    folder: RunFolder,
    chosen: Sequence[ChildRow],
    ranking: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Writes the best cell and the figures. ranking: best first."""
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
    return folder.finish("rerank", "validation", metrics, ranking=ranking)


def entries(chosen: Sequence[ChildRow], runs: Sequence[Mapping[str, ChildRow]]) -> list[dict[str, Any]]:
    """One entry per cell.

    chosen: the cells, as the search scored them. runs: for each seed the children by cell. An entry's
    `spread` is the standard deviation over the seeds, None where fewer than two of them scored the cell.
    """
    found: list[dict[str, Any]] = []
    for row in chosen:
        again = [run[row.cell_key] for run in runs if row.cell_key in run]
        rewards = [each.reward for each in again if each.reward is not None]
        accuracies = [each.accuracy for each in again if each.accuracy is not None]
        found.append(
            {
                "child": row.number,
                "cell_key": row.cell_key,
                "reward": fmean(rewards) if rewards else None,
                "spread": stdev(rewards) if len(rewards) > 1 else None,
                "accuracy": fmean(accuracies) if accuracies else None,
                "rewards": rewards,
                "searched": row.reward,
                "searched_accuracy": row.accuracy,
                "parameters": again[0].parameters if again else row.parameters,
                "multiply_adds": again[0].multiply_adds if again else row.multiply_adds,
            }
        )
    return found


def ranked(ranking: Sequence[dict[str, Any]], seeds: int) -> list[dict[str, Any]]:
    """Best mean reward first; entries that failed with one of the seeds come last.

    Raises SearchPaused where all of them did."""
    whole = [entry for entry in ranking if len(entry["rewards"]) == seeds]
    if not whole:
        raise SearchPaused("no cell was scored with every seed")
    rest = [entry for entry in ranking if entry not in whole]
    return sorted(whole, key=lambda entry: -entry["reward"]) + rest


def _size(entry: Mapping[str, Any]) -> str:
    """Of a network as a message tells it, such as ` at filters 16`; empty where there is one size."""
    told = [f"{name} {entry[name]}" for name in ("cells_per_stage", "filters") if name in entry]
    return f" at {', '.join(told)}" if told else ""


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
    return f"child {entry['child']}{_size(entry)}: {reward}; in the search {searched}"
