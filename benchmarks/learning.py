"""How well strategies learn: late mean z on a reward table, by window, over paired seeds.

    python -m benchmarks.learning results.jsonl --seeds 20 --windows 20 40 200

One process, one thread. Each search is a line of the file; started again, those that are there are not
repeated. Every strategy and window meets the same tables, one per seed, over the paper's space: rewards of
random cells have a standard deviation of 0.8 points, and each training adds noise of 0.3 points.
"""

import argparse
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from backbones.genotype import Genotype
from runtime.random import derive, uniforms
from search.admission import Admission
from search.children.analytic import AnalyticRewards
from search.clock import VirtualClock
from search.config import LimitsConfig
from search.ledger.rows import ChildRow
from search.messages import ChildTask, Cost, Result
from search.space import Space
from search.strategies.config import ControllerConfig, EvolutionConfig, RandomConfig

PAPER_SPACE = Space()
LATE = 500
"""The last children of a search, by whose mean it is judged."""
STRATEGIES: Mapping[str, Any] = {
    "random": RandomConfig(),
    "evolution": EvolutionConfig(),
    "controller, ratio=architecture": ControllerConfig(ratio="architecture"),
    "controller, ratio=decision": ControllerConfig(ratio="decision"),
}
T_QUANTILES = (
    *(12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23),
    *(2.20, 2.18, 2.16, 2.14, 2.13, 2.12, 2.11, 2.10, 2.09, 2.09),
)
"""0.975 quantiles of Student's t with 1, 2, ... degrees of freedom."""


def z_of_search(
    config: Any,
    rewards: AnalyticRewards,
    seed: int,
    *,
    children: int,
    window: int,
    space: Space = PAPER_SPACE,
) -> list[float]:
    """`[children]`, what each child scores without noise; 0 and 1 are the mean and the sd of random cells.

    The order is a search's own: the virtual clock, with costs that differ by up to a factor of 4, and
    duplicates that take the result of the first.
    """
    strategy = config.build(space, seed)
    admission, clock = Admission(_cost, LimitsConfig()), VirtualClock(window)
    rows: list[ChildRow] = []
    scores: list[float] = []
    while len(rows) < children:
        if not clock.free:
            strategy.observe([rows[number].result for number in clock.advance()])
        for proposal in strategy.propose(min(clock.free, children - len(rows)), []):
            row = admission.enter(proposal, 0, clock.now)
            if row.original is None:
                task = ChildTask(proposal, derive(seed, "child", row.cell_key))
                row.finish_with(Result(proposal, reward=rewards(proposal.genotype, task)))
                scores.append(rewards.z(proposal.decisions))
            else:
                scores.append(scores[row.original])
            rows.append(row)
            clock.occupy(row.number, row.finish)
    return scores


def _cost(genotype: Genotype) -> Cost:
    return Cost(int(1e6 * 4 ** float(uniforms(1, 0, "cost", genotype.key)[0])), 1, 1, 1)


def late_mean(scores: Sequence[float]) -> float:
    return statistics.fmean(scores[-LATE:])


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95 % interval by Student's t; not a number for a single value."""
    n = len(values)
    if n < 2:
        return statistics.fmean(values), math.nan
    quantile = T_QUANTILES[min(n - 1, len(T_QUANTILES)) - 1]
    return statistics.fmean(values), quantile * statistics.stdev(values) / math.sqrt(n)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path, help="file of JSON lines, one per search")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--children", type=int, default=2000)
    parser.add_argument("--windows", type=int, nargs="+", default=[20, 40, 200])
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=[*STRATEGIES])
    arguments = parser.parse_args()
    found = _read(arguments.results)
    for seed in range(arguments.seeds):
        rewards = AnalyticRewards(PAPER_SPACE, seed)
        for window in arguments.windows:
            for name in arguments.strategies:
                key = (name, window, arguments.children, seed)
                if key not in found:
                    scores = z_of_search(
                        STRATEGIES[name], rewards, seed, children=arguments.children, window=window
                    )
                    found[key] = late_mean(scores)
                    with arguments.results.open("a") as file:
                        file.write(json.dumps([*key, found[key]]) + "\n")
    print("\n".join(_table(found, arguments.windows, arguments.children)))


def _read(path: Path) -> dict[tuple[str, int, int, int], float]:
    """Late mean z by strategy, window, children and seed."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {(name, window, children, seed): z for name, window, children, seed, z in map(json.loads, lines)}


def _table(
    found: Mapping[tuple[str, int, int, int], float], windows: Iterable[int], children: int
) -> Iterable[str]:
    yield "| window | strategy | seeds | late mean z | minus random, 95 % |"
    yield "|---|---|---|---|---|"
    for window in windows:
        columns = {
            name: {seed: z for (*key, seed), z in found.items() if key == [name, window, children]}
            for name in STRATEGIES
        }
        for name, by_seed in columns.items():
            if not by_seed:
                continue
            pairs = [z - columns["random"][seed] for seed, z in by_seed.items() if seed in columns["random"]]
            difference = ""
            if name != "random" and pairs:
                mean, half = interval(pairs)
                difference = f"{mean:.2f} ± {half:.2f}"
            cells = (window, name, len(by_seed), f"{statistics.fmean(by_seed.values()):.2f}", difference)
            yield f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    main()
