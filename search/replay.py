"""Trains one child of a search again, as it was trained then, and compares."""

import argparse
import math
import sys
from pathlib import Path
from typing import Any

from backbones.arguments import whole
from backbones.words import printable_lines, told
from celltransfer import program


def main(words: list[str] | None = None) -> int:
    """0: the same reward and curve; 1: others; 2 by argparse."""
    parser = argparse.ArgumentParser(prog=program("search.replay"), description=__doc__)
    parser.add_argument("dir", type=Path, help="folder of a search")
    parser.add_argument("child", type=whole(0), help="number of a child that has finished")
    arguments = parser.parse_args(words)
    try:
        return replay(arguments.dir, arguments.child)
    except (ValueError, OSError) as error:
        sys.exit(printable_lines(told(error)))


def replay(folder: Path, number: int) -> int:
    """Prints both trainings; returns the exit code."""
    # after --help, which needs no tensors
    from search.ledger.located import located
    from search.ledger.reader import read_children, read_fact
    from search.stored import stored_search

    found = located(folder)
    ledger = found.ledger
    rows = {row.number: row for row in read_children(ledger)}
    row = rows.get(number)
    if row is not None and row.original is not None:
        row = rows[row.original]
    if row is None or row.status != "done" or row.attempts == 0:
        raise ValueError(f"{ledger}: child {number} has not been trained; it has 0..{len(rows) - 1}")
    config = stored_search(found.folder, run_dir=str(found.folder), strategy=None, executor=None)

    from runtime.random import derive
    from search.children.attempt import attempt
    from search.children.evaluators import evaluation
    from search.messages import ChildTask
    from search.objective import weighed

    evaluator = evaluation(config.evaluator, config.data, config.child, config.seed).open()
    task = ChildTask(row.proposal, derive(config.seed, "child", row.cell_key), row.attempts, row.alone)
    print(f"child {row.number}, seed {task.seed}", flush=True)
    result = weighed(attempt(evaluator, task), row, config.objective)
    then = row.metrics.get("accuracy", row.reward)
    now = result.metrics.get("accuracy", result.reward)
    for when, outcome, accuracy in (("then", row, then), ("now ", result, now)):
        reward = outcome.reward if config.objective.cost is not None else None
        print(f"{when}  {_shown(accuracy, reward, outcome)}, {outcome.seconds:.1f} s")
    if (then, row.failure, row.curve) == (now, result.failure, result.curve):
        measured = row.reward != result.reward
        print("the same accuracy; the cost is measured, so the reward is not" if measured else "the same")
        return 0
    print("not the same")
    split = read_fact(ledger, "split")
    if split and then is not None and now is not None:
        noise = math.sqrt(max(then * (1 - then), 1e-9) / split["validation"])
        images = split["validation"]
        print(f"they differ by {abs(now - then):.4f}; {images} images measure to +-{noise:.4f} (one sigma)")
    before = read_fact(ledger, "hardware") or {}
    site = result.site
    if site and before and (before["torch"], before["capability"]) != (site.torch, site.capability):
        print(
            f"then on PyTorch {before['torch']}, {before['capability']}; now {site.torch}, {site.capability}"
        )
    return 1


def _shown(accuracy: float | None, reward: float | None, outcome: Any) -> str:
    """reward: None where it is the accuracy. outcome: has a failure, its detail and a curve."""
    if outcome.failure:
        return f"{outcome.failure}: {outcome.detail}"
    curve = " ".join(f"{epoch:.3f}" for epoch in outcome.curve)
    weighed = "" if reward is None else f", reward {reward:.4g}"
    return f"{accuracy:.4f} ({curve}){weighed}"


if __name__ == "__main__":
    sys.exit(main())
