"""What the driver of a search costs, and what a window brings: simulated searches, tables in Markdown.

    python -m benchmarks.driver cpu --children 20000 --rounds 3
    python -m benchmarks.driver windows --children 20000

`cpu`: milliseconds of CPU per child by part, medians over rounds, which are interleaved; `driver` is its
resident memory, PyTorch and all. `windows`: how busy the workers are, and the mean reward of the last
children in standard deviations of random cells' above their mean.
"""

import argparse
import statistics
from collections.abc import Iterator, Sequence

from conf.compose import composed
from search.simulation import Outcome, simulate

PARTS = ("propose", "update", "state", "admission", "ledger", "rest")
WORKERS, FACTORS = (8, 64, 500, 2000), (1, 2, 4)
MOST_MILLISECONDS, MOST_LEDGER = 10.0, 60e6


def simulated(*words: str) -> Outcome:
    return simulate(composed("search_simulate", *words))


def cpu_rows(strategies: Sequence[str], children: int, rounds: int) -> Iterator[tuple[str, ...]]:
    """500 workers and a window of 1,000, as many as the paper's search had; fewer where children are few."""
    outcomes: dict[str, list[Outcome]] = {name: [] for name in strategies}
    for number in range(rounds):
        for name in strategies:
            words = (f"strategy={name}", f"children={children}", f"seed={number}")
            outcomes[name].append(simulated(*words, f"workers={min(500, children)}"))
    yield ("strategy", *PARTS, "all", "goal", "ledger", "goal", "driver")
    for name, found in outcomes.items():
        parts = [statistics.median(outcome.cpu.get(part, 0.0) for outcome in found) for part in PARTS]
        total = statistics.median(sum(outcome.cpu.values()) for outcome in found)
        ledger = max(outcome.ledger_bytes for outcome in found)
        resident = max(outcome.resident_bytes for outcome in found)
        yield (
            name,
            *(f"{milliseconds:.2f}" for milliseconds in (*parts, total)),
            f"≤ {MOST_MILLISECONDS:g} ms {verdict(total <= MOST_MILLISECONDS)}",
            f"{ledger / 1e6:.1f} MB",
            f"≤ {MOST_LEDGER / 1e6:g} MB {verdict(ledger <= MOST_LEDGER)}",
            f"{resident / 1e6:.0f} MB",
        )


def verdict(met: bool) -> str:
    return "met" if met else "missed"


def window_rows(workers: Sequence[int], children: int, seeds: int) -> Iterator[tuple[str, ...]]:
    """Utilisation by random search, which any strategy has; rewards by the controller, once for a window.

    What is proposed depends on the window, and on the workers not at all."""
    yield ("workers", "window", "to the last proposal", "over all", "simulated hours", "late z")
    scores: dict[int, list[float]] = {}
    for number in workers:
        for window in (factor * number for factor in FACTORS):
            words = (f"children={children}", f"window={window}", f"workers={number}")
            outcome = simulated("strategy=random", *words)
            if window not in scores:
                runs = [simulated("strategy=controller", f"seed={seed}", *words) for seed in range(seeds)]
                scores[window] = [run.late_z for run in runs]
            shown = (outcome.utilisation_proposing, outcome.utilisation)
            z = f"{statistics.fmean(scores[window]):.2f}" if seeds else ""
            yield (
                f"{number:,}",
                f"{window:,}",
                *(f"{share:.1%}" for share in shown),
                f"{outcome.hours:,.0f}",
                z,
            )


def show(rows: Iterator[tuple[str, ...]]) -> None:
    """Each line as soon as it is known."""
    for index, row in enumerate(rows):
        print(f"| {' | '.join(row)} |", flush=True)
        if index == 0:
            print("|---" * len(row) + "|")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("table", choices=("cpu", "windows"))
    parser.add_argument("--children", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3, help="of cpu")
    parser.add_argument("--strategies", nargs="+", default=["random", "controller"], help="of cpu")
    parser.add_argument("--workers", type=int, nargs="+", default=WORKERS, help="of windows")
    parser.add_argument("--seeds", type=int, default=1, help="of windows: controllers; 0 leaves z out")
    args = parser.parse_args()
    if args.table == "cpu":
        show(cpu_rows(args.strategies, args.children, args.rounds))
    else:
        show(window_rows(args.workers, args.children, args.seeds))


if __name__ == "__main__":
    main()
