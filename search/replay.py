"""Trains one child of a search again, as it was trained then, and compares."""

import argparse
import math
import sys
from pathlib import Path

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
    from search.ledger.reader import LEDGER, read_children, read_fact  # after --help, which needs no tensors
    from search.stored import stored_search

    rows = {row.number: row for row in read_children(folder / LEDGER)}
    row = rows.get(number)
    if row is not None and row.original is not None:
        row = rows[row.original]
    if row is None or row.status != "done" or row.attempts == 0:
        raise ValueError(f"{folder / LEDGER}: child {number} has not been trained; it has 0..{len(rows) - 1}")
    config = stored_search(folder, run_dir=str(folder), strategy=None, executor=None)

    from runtime.random import derive
    from search.children.attempt import attempt
    from search.children.evaluators import evaluation
    from search.messages import ChildTask

    evaluator = evaluation(config.evaluator, config.data, config.child, config.seed).open()
    task = ChildTask(row.proposal, derive(config.seed, "child", row.cell_key), row.attempts, row.alone)
    print(f"child {row.number}, seed {task.seed}", flush=True)
    result = attempt(evaluator, task)
    then = row.metrics.get("accuracy", row.reward)
    now = result.metrics.get("accuracy", result.reward)
    print(f"then  {_shown(then, row.failure, row.curve)}, {row.seconds:.1f} s")
    print(f"now   {_shown(now, result.failure, result.curve)}, {result.seconds:.1f} s")
    if (then, row.failure, row.curve) == (now, result.failure, result.curve):
        print("the same")
        return 0
    print("not the same")
    split = read_fact(folder / LEDGER, "split")
    if split and then is not None and now is not None:
        noise = math.sqrt(max(then * (1 - then), 1e-9) / split["validation"])
        images = split["validation"]
        print(f"they differ by {abs(now - then):.4f}; {images} images measure to +-{noise:.4f} (one sigma)")
    before = read_fact(folder / LEDGER, "hardware") or {}
    site = result.site
    if site and before and (before["torch"], before["capability"]) != (site.torch, site.capability):
        print(
            f"then on PyTorch {before['torch']}, {before['capability']}; now {site.torch}, {site.capability}"
        )
    return 1


def _shown(accuracy: float | None, failure: object, curve: tuple[float, ...]) -> str:
    return f"{failure}" if accuracy is None else f"{accuracy:.4f} ({' '.join(f'{a:.3f}' for a in curve)})"


if __name__ == "__main__":
    sys.exit(main())
