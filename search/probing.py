"""Says before a search how far its short training ranks random cells as a longer one does."""

import dataclasses
import itertools
import logging
from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from backbones.genotype import Genotype
from backbones.ranges import KEY, ConfigError
from backbones.words import counted
from celltransfer import program
from runtime.folder import RunFolder
from runtime.owner import owned
from search.command_words import data_words, evaluator_words, group_words, part_words
from search.config import BudgetConfig, SearchConfig
from search.ledger.rows import ChildRow
from search.messages import SearchPaused
from search.rank_agreement import FEWEST, Agreement, agreement
from search.space import Space
from search.studies import MAY_CHANGE, train, write_cells
from search.studies_config import ProbeConfig

log = logging.getLogger(__name__)

LEAST_CELLS = 3
"""With a reward in every training."""
MOST_REPEATS = 1_000
"""Cells drawn in a row that were drawn before, at which the space counts as exhausted."""


def probe(config: ProbeConfig) -> dict[str, Any]:
    """Trains random cells briefly with several seeds, and for `epochs` with the last of them; compares.

    A short training is the search's measurement. Those with other seeds than the longer training are compared
    with it and, for the noise floor, all short ones with each other. So in both comparisons split and initial
    weights are others: what the two differ by is due to the epochs. With one seed for short and long, both
    would err alike on the same held-out images, and seem to agree.
    Prints Kendall's tau of both, the mean over the pairs, and its 95 % interval; writes `metrics.json`. A
    tau is None where a training scores all cells alike. With an objective the same for the accuracies, too.
    Raises as `search.run.run` does, and SearchPaused where too few cells were scored.
    """
    cells = _cells(config)
    longer = dataclasses.replace(config.child, epochs=config.epochs, stop_below=None)
    names = ("data", "space", "evaluator", "executor", "objective")
    search = SearchConfig(
        **{name: getattr(config, name) for name in names},
        run_dir="",
        strategy=None,
        child=config.child,
        budget=BudgetConfig(max_attempts=config.budget.max_attempts),
    )
    with owned(config.run_dir):
        folder = RunFolder.open(config.run_dir, config, stage="probe", may_change=MAY_CHANGE)
        files = write_cells(folder.path, cells)
        runs: list[Mapping[str, ChildRow]] = []
        seeds = [config.seed + number for number in range(config.seeds)]
        plans = [(f"short_seed{seed}", config.child, seed) for seed in seeds]
        plans.append((f"long_seed{seeds[-1]}", longer, seeds[-1]))
        for name, child, seed in plans:
            log.info(
                "training %d of %d: %s for %s with seed %d",
                *(len(runs) + 1, len(plans), counted(len(cells), "cell")),
                *(counted(child.epochs, "epoch"), seed),
            )
            changed = dataclasses.replace(search, child=child, seed=seed)
            runs.append(train(changed, folder.path / name, files))
            folder.log("probe")
        scored = _scored([cell.key for cell in cells], runs)
        if len(scored) < LEAST_CELLS:
            raise SearchPaused(
                f"{folder.path}: {counted(len(scored), 'cell')} with all rewards, {LEAST_CELLS} are needed"
            )
        measured = [[run[key].reward or 0.0 for key in scored] for run in runs]
        metrics: dict[str, Any] = _metrics(measured, config.seed)
        if config.objective.cost is not None:
            measured = [[run[key].accuracy or 0.0 for key in scored] for run in runs]
            own = _metrics(measured, config.seed)
            metrics |= {f"accuracy_{name}": value for name, value in own.items()}
        content = folder.finish("probe", "validation", metrics | {"cells": len(scored)})
    for line in _report(config, measured, metrics):
        log.info("%s", line)
    return content


def _cells(config: ProbeConfig) -> list[Genotype]:
    """Random cells of the space, no two of them the same network."""
    space, found, number = Space.of(config.space), dict[str, Genotype](), 0
    repeats = 0
    while len(found) < config.cells:
        cell = space.decode(space.sample(config.seed, number))
        number += 1
        repeats = repeats + 1 if cell.key in found else 0
        found.setdefault(cell.key, cell)
        if repeats == MOST_REPEATS:
            raise ConfigError(f"{KEY}cells = {config.cells}, but the space has hardly more than {len(found)}")
    return list(found.values())


def _scored(keys: Sequence[str], runs: Sequence[Mapping[str, ChildRow]]) -> list[str]:
    return [key for key in keys if all(key in run and run[key].reward is not None for run in runs)]


def _metrics(scores: Sequence[Sequence[float]], seed: int) -> dict[str, Any]:
    """scores: of the short trainings, and of the longer one, `[cells]` each."""
    *short, long = scores
    proxy = agreement([(each, long) for each in short[:-1]], seed)
    noise = agreement(list(itertools.combinations(short, 2)), seed)
    return {
        **{f"proxy_{name}": value for name, value in proxy._asdict().items()},
        **{f"noise_{name}": value for name, value in noise._asdict().items()},
        "short_spread_of_cells": mean(map(stdev, short)),
        "long_spread_of_cells": stdev(long),
    }


def _report(
    config: ProbeConfig, measured: Sequence[Sequence[float]], metrics: Mapping[str, Any]
) -> list[str]:
    """measured: as `_metrics` takes it; accuracies where there is an objective.

    The cost is known without training and equal in all of them, so rewards agree by it alone."""
    lines = [
        f"{counted(len(measured[0]), 'cell')}, {config.child.epochs} and {counted(config.epochs, 'epoch')}"
    ]
    parts = {"": ""} if config.objective.cost is None else {"": ", rewards", "accuracy_": ", accuracies"}
    for prefix, of in parts.items():
        proxy, noise = (_agreement(metrics, f"{prefix}{name}_") for name in ("proxy", "noise"))
        lines.append(f"short against long training{of}: {_told(proxy)}")
        lines.append(f"noise floor, short against short with another seed{of}: {_told(noise)}")
    cells, uncertain = metrics["short_spread_of_cells"], noise.spread
    lines.append(f"cells differ by {cells:.2g} in short training, one score is uncertain by {uncertain:.2g}")
    return [*lines, _next(config, measured, proxy.low)]


def _next(config: ProbeConfig, measured: Sequence[Sequence[float]], low: float | None) -> str:
    """What the user is advised to do; low: end of the interval of tau, short against long."""
    *short, long = measured
    constant = [len(set(scores)) == 1 for scores in measured]
    alike = ["short"] * any(constant[:-1]) + ["longer"] * constant[-1]
    if alike:
        return (
            f"all cells score alike in the {' and the '.join(alike)} training, which ranks nothing: "
            "train longer, on more images or with larger children, or choose a larger space"
        )
    if long == short[-1]:
        advice = "raise epochs, or child.lr"
        if config.evaluator is not None:
            advice = "the evaluator must follow child.epochs, as one that is given ${child} can"
        return f"the longer training changed nothing, all scores are those of the short one: {advice}"
    if len(long) < FEWEST:
        return f"next: cells={2 * FEWEST} or more; {counted(len(long), 'cell')} with a score show nothing"
    if low is None or low <= 0:
        return "next: raise child.epochs or cells; an interval that reaches 0 shows no agreement"
    words = [
        *data_words(config.data),
        *part_words(config, "space", "child", "objective"),
        *evaluator_words(config.evaluator),
        *group_words("executor", config.executor),
    ]
    return f"next: a search with these children: {program(' '.join(['search', *words]))}"


def _agreement(metrics: Mapping[str, Any], prefix: str) -> Agreement:
    return Agreement(*(metrics[f"{prefix}{name}"] for name in Agreement._fields))


def _told(found: Agreement) -> str:
    if found.tau is None:
        return "Kendall's tau is undefined, since all cells score alike"
    if found.low is None:
        return f"Kendall's tau {found.tau:.2f}, of too few cells for an interval"
    return f"Kendall's tau {found.tau:.2f}, 95 % interval {found.low:.2f} to {found.high:.2f}"
