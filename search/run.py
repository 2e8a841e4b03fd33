"""A search as a stage: its configuration, its folder, what it leaves. Killed at any point, it continues."""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial, reduce
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from lightning.pytorch.loggers import Logger

from backbones.files import real_path
from backbones.genotype import Genotype
from backbones.ranges import KEY, ConfigError, under, writable_folder
from runtime.device import resolve_device
from runtime.folder import ALWAYS_FREE, RunFolder, differences, plain
from runtime.overrides import override
from runtime.owner import owned, owns
from runtime.random import derive
from runtime.stage import Stage
from runtime.tracking import build_loggers, finish, log_artifact, log_summary
from runtime.yaml_files import read_mapping
from search.admission import Admission
from search.budget import Budget
from search.chance import FACT, at_chance
from search.children.evaluators import Evaluation, evaluation
from search.children.site import capability, here
from search.children.timed import OpenTimed
from search.commands import cures, rerank
from search.config import SearchConfig
from search.executors.protocol import Executor
from search.latency.measure import check_engine
from search.latency.predictor import LATENCY_MODEL, known_or_calibrated
from search.ledger.place import check_place, open_ledger
from search.ledger.reader import LEDGER, is_ledger, read_fact
from search.ledger.rows import ChildRow, best_first
from search.ledger.writer import Ledger
from search.loop import Search
from search.messages import Cost, SearchPaused
from search.naming import CHILDREN, Naming
from search.plan import announce
from search.snapshot import LATE
from search.space import Space
from search.strategies.protocol import Strategy

log = logging.getLogger(__name__)

MAY_CHANGE = ("budget", "executor", "ledger", "strict_hardware", "data.root", "data.workers", "data.download")
"""Keys that do not make another search of it; the ledger knows images and split by their content."""
CHILDREN_PER_WINDOW = 20
"""Below this many a strategy can hardly learn; docs/search.md, "Which ratio"."""
STAGE = Stage("search", MAY_CHANGE, products=("genotype.json",), sources=(LEDGER,), report="search.report")


def run(
    config: SearchConfig, *, clock: Callable[[], float] = time.monotonic, naming: Naming = CHILDREN
) -> dict[str, Any]:
    """Runs or continues a search until its budget is spent; returns what `metrics.json` holds.

    Writes `search.sqlite` all along, `genotype.json` (the best child) and `metrics.json` at the end.
    clock: seconds from any origin, for `budget.hours`. naming: of the children, where a study runs it.
    Raises ValueError or FileNotFoundError before anything long starts, SearchPaused when it cannot go on.
    """
    if (done := _finished(config, naming)) is not None:  # which needs no owner: nothing is written
        return done
    with owned(config.run_dir):
        return _finished(config, naming) or _search(config, clock, naming)


def _search(config: SearchConfig, clock: Callable[[], float], naming: Naming) -> dict[str, Any]:
    check_place(Path(config.run_dir), config.ledger)
    if config.ledger is not None:
        writable_folder(config.ledger, "ledger")
    with under("strategy"):
        strategy = config.strategy.build(Space.of(config.space), config.seed)
    scoring = evaluation(config.evaluator, config.data, config.child, config.seed)
    if config.metric is not None or config.limits.latency_ms is not None:
        check_engine(config.latency)
    if config.metric is not None:
        scoring = scoring._replace(open=OpenTimed(scoring.open, config.latency))
    with closing(config.executor.build(scoring.open, _name(config))) as executor:
        return _run_on(executor, config, strategy, scoring, clock, naming)


def _run_on(
    executor: Executor,
    config: SearchConfig,
    strategy: Strategy,
    scoring: Evaluation,
    clock: Callable[[], float],
    naming: Naming,
) -> dict[str, Any]:
    began_as = _stored_id(Path(config.run_dir))
    folder = RunFolder.open(config.run_dir, config, stage=STAGE.name, may_change=MAY_CHANGE)
    STAGE.tell_what_is_lost(folder.path)
    path = folder.path / LEDGER
    ledger = open_ledger(folder.path, config.ledger)
    (folder.path / "metrics.json").unlink(missing_ok=True)  # of a smaller budget
    images = scoring.facts.get("split")
    loggers = build_loggers(config.logger, folder.path, "search", plain(config), images)
    try:
        if ledger.fact("search") == began_as:  # before this version's new keys, which change nothing
            ledger.save(facts={"search": search_id(config)})
        _check_facts(ledger, path, {"search": search_id(config), **scoring.facts})
        if config.objective.cost is None:  # else a reward is no accuracy
            ledger.save(facts={FACT: scoring.chance})
        _check_hardware(ledger, path, config)
        _warn_of_few_children(config)
        _warn_of_many_workers(config, executor.capacity())
        search = Search(
            ledger,
            strategy,
            executor,
            Admission(_cost(config, ledger, scoring.cost), config.limits),
            seed=config.seed,
            window=config.window,
            budget=Budget(config.budget, float(ledger.fact("seconds") or 0), clock, naming),
            objective=config.objective,
            loggers=loggers,
            naming=naming,
            full_epochs=config.child.epochs if config.child.stop_below else None,
        )
        search.run(partial(announce, config, scoring.open, naming=naming))
        done = [row for row in search.rows if row.status == "done"]
        spent = "budget.hours" if len(done) < config.budget.children else "budget.children"
        best = _write_best(config, folder, done, loggers, spent, naming)
        metrics, chance = _metrics(done), ledger.fact(FACT)
        log_summary(loggers, metrics)
        ledger.save(facts={"finished": plain(config.budget)})
    finally:
        finish(loggers)
        ledger.close()
    content = folder.finish(STAGE.name, "validation", metrics, best_child=best.number)
    if naming.cells:
        _tell_best(content, naming)
        return content
    STAGE.show(folder, content)
    late = [row.reward for row in done if row.reward is not None][-LATE:]
    if (warning := at_chance(late, {FACT: chance})) is not None:
        log.warning("%s", warning)
    _tell_what_is_next(folder.path, spent)
    return content


def search_id(config: SearchConfig) -> str:
    """12 hexadecimal digits that name all which decides what this search proposes."""
    return _id_of(plain(config))


def _id_of(decisive: dict[str, Any]) -> str:
    for key in (*ALWAYS_FREE, *MAY_CHANGE):
        *groups, name = key.split(".")
        reduce(lambda values, group: values.get(group) or {}, groups, decisive).pop(name, None)
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:12]


def _stored_id(folder: Path) -> str:
    """What `search_id` gave when the configuration in a folder was written; empty without one.

    `RunFolder.open` compares that configuration with the one that is asked for, key by key."""
    path = folder / "config.yaml"
    return _id_of(dict(read_mapping(path, "configuration"))) if path.is_file() else ""


def _name(config: SearchConfig) -> str:
    """Of the search as other drivers may see it: the same search in two folders is two."""
    folder = hashlib.sha256(str(real_path(config.run_dir)).encode()).hexdigest()[:8]
    return f"{search_id(config)}-{folder}"


def _finished(config: SearchConfig, naming: Naming) -> dict[str, Any] | None:
    """As `Stage.finished`: a search is finished for a budget."""
    folder = Path(config.run_dir)
    if not STAGE.is_finished(folder):
        return None
    if (folder / "config.yaml").exists():
        if not is_ledger(folder / LEDGER):
            raise ValueError(
                f"{folder} holds a finished search whose {LEDGER} is gone; restore it, delete metrics.json "
                "to start from the beginning, or choose another run_dir"
            )
        if read_fact(folder / LEDGER, "finished") != plain(config.budget):
            return None
    content = STAGE.finished(config, quiet=bool(naming.cells))
    if content is not None and naming.cells:
        log.info("this training was finished before")
        _tell_best(content, naming)
    return content


def _check_facts(ledger: Ledger, path: Path, facts: dict[str, Any]) -> None:
    for name, value in facts.items():
        known = ledger.fact(name)
        changed = differences(known, value, prefix=name) if known is not None else []
        if changed:
            what = {"search": "keys", "split": "images"}[name]
            raise ValueError(f"{path}: this search began with other {what}: {', '.join(changed)}")
    ledger.save(facts=facts)


def _cost(
    config: SearchConfig, ledger: Ledger, cost: Callable[[Genotype], Cost]
) -> Callable[[Genotype], Cost]:
    """What a child costs, with predicted milliseconds where those are limited. The model of them is made
    once, when the search begins."""
    if config.limits.latency_ms is None:
        return cost
    latency, known = config.latency, ledger.fact(LATENCY_MODEL)
    model = known_or_calibrated(known, config.run_dir, Space.of(config.space), latency, config.seed)
    ledger.save(facts={LATENCY_MODEL: plain(model)})
    predict = partial(model.predict, config=latency)
    return lambda genotype: replace(cost(genotype), latency_ms=predict(genotype))


def _check_hardware(ledger: Ledger, path: Path, config: SearchConfig) -> None:
    """The strategy's last bits, and what the children learn, follow the processor and PyTorch's version."""
    device = "cpu" if config.evaluator is not None else str(resolve_device(config.child.device))
    now = here(device)
    found = {"device": now.device, "torch": now.torch, "CPU": capability(), "capability": now.capability}
    found["numpy"] = np.__version__  # in which the controller draws
    before = ledger.fact("hardware")
    if before is None:
        ledger.save(facts={"hardware": found})
    elif before != found:
        changes = ", ".join(
            f"{name} {before.get(name)} -> {value}"
            for name, value in found.items()
            if before.get(name) != value
        )
        message = f"{path}: this search began on other hardware or software ({changes})"
        if config.strict_hardware:
            raise ConfigError(f"{message}, and {KEY}strict_hardware is true")
        log.warning("%s: from here on its numbers may differ in their last bits", message)


def _warn_of_few_children(config: SearchConfig) -> None:
    """A strategy that learns has seen nothing while the first `window` children are proposed."""
    enough = CHILDREN_PER_WINDOW * config.window
    if config.strategy.learns and config.budget.children < enough:
        log.warning(
            "budget.children = %d is less than %d x window = %d: strategy=%s learns little in so short "
            "a search, which is close to a random one",
            config.budget.children,
            CHILDREN_PER_WINDOW,
            enough,
            config.strategy.name,
        )


def _warn_of_many_workers(config: SearchConfig, workers: int) -> None:
    if workers > max(1, config.window / 2):
        log.warning("window = %d, below twice the %d workers: some will idle", config.window, workers)


def _write_best(
    config: SearchConfig,
    folder: RunFolder,
    done: Sequence[ChildRow],
    loggers: Sequence[Logger],
    spent: str,
    naming: Naming,
) -> ChildRow:
    """Writes `genotype.json` and returns its child. done: the finished children. spent: as for
    `_tell_what_is_next`. Raises SearchPaused where none has a reward."""
    if not (ranked := best_first(done)):
        raise SearchPaused(f"{folder.path}: {_why_none(config, done, spent, naming)}")
    best = ranked[0]
    origin = {
        "search": search_id(config),
        "child": best.number,
        "reward": best.reward,
        "seed": config.seed,
        "child_seed": derive(config.seed, "child", best.cell_key),
    }
    Genotype(best.genotype.normal, best.genotype.reduction, origin).save(folder.path / "genotype.json")
    log_artifact(loggers, folder.path / "genotype.json", "genotype")
    return best


def _metrics(done: Sequence[ChildRow]) -> dict[str, float]:
    """Of finished children, at least one of which has a reward."""
    rewards = [row.reward for row in done if row.reward is not None]
    return {
        "best_reward": max(rewards),
        "mean_reward": mean(rewards),  # exact, as the figures that are logged
        "children": len(done),
        "failed": len(done) - len(rewards),
    }


def _why_none(config: SearchConfig, done: Sequence[ChildRow], spent: str, naming: Naming) -> str:
    """What became of a search without a reward. spent: as for `_tell_what_is_next`."""
    if not done:
        more = "" if naming.cells else f"; continue with a larger {spent}"
        return f"budget.hours = {config.budget.hours:g} was spent before a {naming.one} was done{more}"
    parts = [f"{naming.counted(len(done))} finished, none with a reward"]
    parts.append(f"{naming.of(done[0].number)}: {done[0].failure}: {done[0].detail}")
    keys = cures((row.failure for row in done), plain(config))
    further = [] if naming.cells else [f"continue with a larger {spent}"]
    further += [f"in a new run_dir change {keys}"] if keys else []
    if further:
        parts.append(f"the same command runs nothing more: {', or '.join(further)}")
    return "; ".join(parts)


def _tell_best(content: dict[str, Any], naming: Naming) -> None:
    best = content["metrics"]["best_reward"]
    log.info("best reward %.4g: %s", best, naming.of(content["best_child"]))


def _tell_what_is_next(folder: Path, longer: str) -> None:
    """Logs the commands that a search is for; not where it is a part of something larger.

    longer: the key of the budget that was spent."""
    if owns(real_path(folder).parent):
        return
    log.info("train the best cells longer: %s", rerank(folder))
    log.info("to extend it: the same command with %s and a larger %s", override("run_dir", folder), longer)
