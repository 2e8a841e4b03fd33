"""What the user is told before the first child runs: how long it takes, how much it needs."""

import logging
import os
from collections.abc import Sequence
from typing import Any

from backbones.words import counted
from search.config import SearchConfig
from search.estimate import Pace, estimated
from search.executors.packing import own_memory
from search.ledger.rows import ChildRow
from search.messages import OpenEvaluator
from search.naming import CHILDREN, Naming

log = logging.getLogger(__name__)

LEDGER_BYTES_PER_CHILD, LEDGER_BYTES = 3_000, 4_000_000
"""About; the second for the state of the strategy and SQLite's log."""
LONG_SECONDS = 3600.0
"""Of a search from which on the keys that make it shorter are named."""


def announce(
    config: SearchConfig,
    open_evaluator: OpenEvaluator,
    waiting: Sequence[ChildRow],
    pace: Pace,
    workers: int,
    naming: Naming = CHILDREN,
) -> None:
    """Logs the estimated time, memory and disk of what is left of a search.

    waiting: the children that run next. pace: what earlier children of this search took; if there were none,
    and the search's own training scores them, a few steps are timed. An evaluator of the user's is not known
    before it has run."""
    held = own_memory(os.getpid())  # before steps are timed, whose freed memory this process keeps
    how = "from the children so far"
    if pace.factor is None and config.evaluator is None:
        from search.children.calibration import real_per_predicted

        typical = sorted(waiting, key=lambda row: row.cost)[len(waiting) // 2]
        factor, steps = real_per_predicted(typical.genotype, config.child)
        pace.guess(factor)
        how = f"from {counted(steps, 'timed step')} of {naming.of(typical.number)} on this machine"
    log.info("%s", _time(config, pace, workers, how, naming))
    log.info("%s", _needs(config, open_evaluator, waiting, workers, naming, held))
    left = pace.seconds_left(workers)
    if left is not None and left > LONG_SECONDS:
        log.info("%s", _shorter(config))


def _time(config: SearchConfig, pace: Pace, workers: int, how: str, naming: Naming) -> str:
    children = f"{naming.counted(pace.left)} to run"
    on = f"on {counted(workers, 'worker')}"
    left, each = pace.seconds_left(workers), pace.seconds_per_child
    if left is None or each is None:
        return f"{children} {on}; how long one takes is known when the first has ended"
    limit = ""
    if config.budget.hours is not None and left > 3600 * config.budget.hours:
        limit = f"; budget.hours = {config.budget.hours:g} ends it before"
    estimate = f"{estimated(left)} {on}, {estimated(each)} per {naming.one}"
    return f"{children}: {estimate}. An estimate {how}{limit}"


def _needs(
    config: SearchConfig,
    open_evaluator: OpenEvaluator,
    waiting: Sequence[ChildRow],
    workers: int,
    naming: Naming,
    held: int,
) -> str:
    """held: bytes that this process takes without a child."""
    megabytes = (LEDGER_BYTES + LEDGER_BYTES_PER_CHILD * config.budget.children) / 1e6
    disk = f"disk: about {megabytes:,.0f} MB in {config.run_dir}"
    predict: Any = getattr(open_evaluator, "predicted_memory", None)
    if predict is None or not str(getattr(open_evaluator, "device", "cpu")).startswith(("cpu", "auto")):
        return disk
    largest = max(predict(row.genotype) for row in waiting)
    if config.executor.name == "inline":  # in this process, which holds more than a worker does
        from search.children.cost import WORKER_BYTES

        largest += max(0, held - WORKER_BYTES)
    return f"memory: up to {largest / 1e9:.1f} GB per {naming.one}, {workers} at a time; {disk}"


def _shorter(config: SearchConfig) -> str:
    """The keys that make it shorter, with their values."""
    keys: dict[str, int | str] = {"budget.children": config.budget.children}
    if config.evaluator is None:
        child = config.child
        keys |= {"child.epochs": child.epochs, "child.filters": child.filters}
        keys |= {"child.cells_per_stage": child.cells_per_stage, "child.training": child.training or "all"}
    values = ", ".join(f"{key} ({value})" for key, value in keys.items())
    return f"Ctrl-C pauses it at any time. Smaller values make it shorter: {values}; so do more workers"
