"""How much strategies learn, and what late results cost them: on rewards whose scale is known exactly.

    python -m benchmarks.learning runs/learning.jsonl --windows 20 40 200

Each search proposes one child for each result, `window` children behind. Its rewards are those of
`search.children.reward_table.RewardTable`, another one for each seed, the same for all ways. The figure is
the mean z of the last quarter, at most 500, of the children: the true reward, in standard deviations of
random cells above their mean. The file holds one line for each finished search; started again, only those
that are missing run. Seconds of CPU: about 9 for each 2,000 children of a controller.
"""

import argparse
import itertools
import json
import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from runtime.random import derive
from search.children.reward_table import RewardTable
from search.messages import Result
from search.space import Space
from search.strategies.config import RATIOS, ControllerConfig, EvolutionConfig, RandomConfig

WAYS: Mapping[str, Callable[[], Any]] = {
    **{ratio: partial(ControllerConfig, ratio=ratio) for ratio in RATIOS},
    "evolution": EvolutionConfig,
    "random": RandomConfig,
}
"""A controller by its ratio, or another strategy."""
LATE = 500
CONFIDENCE = 0.95

Search = tuple[str, int, int, int]
"""Way, window, children, seed."""


def late_z(config: Any, *, window: int, children: int, seed: int, space: Space | None = None) -> float:
    """Mean z of the last children of one search, at most 500 and at most a quarter of all."""
    space = space or Space()
    table, strategy = RewardTable(space, seed), config.build(space, seed)
    proposals = deque(strategy.propose(min(window, children), []))
    true: list[float] = []
    while proposals:
        proposal = proposals.popleft()
        true.append(table.z(proposal.decisions))
        child_seed = derive(seed, "child", *proposal.decisions)  # equal cells have equal results
        strategy.observe([Result(proposal, reward=table.reward(proposal.decisions, child_seed))])
        if len(true) + len(proposals) < children:
            proposals += strategy.propose(1, list(proposals))
    return statistics.mean(true[-min(LATE, children // 4) :])


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half the width of its 95 % confidence interval, by Student's t."""
    from scipy.stats import t

    half = t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return statistics.mean(values), float(half)


def read(path: Path) -> dict[Search, float]:
    """The searches that a file of results holds; a last line that a kill cut short is passed over."""
    found = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        found[entry["way"], entry["window"], entry["children"], entry["seed"]] = entry["z"]
    return found


def table(results: Mapping[Search, float]) -> str:
    """Markdown: a row for each way, a column for each window and number of children."""
    ways = sorted({way for way, *_ in results}, key=list(WAYS).index)
    columns = sorted({(children, window) for _, window, children, _ in results})
    heads = [f"window {window:,}, {children:,} children" for children, window in columns]
    lines = [f"| | {' | '.join(heads)} |", f"|---|{'---:|' * len(columns)}"]
    for way in ways:
        cells = []
        for children, window in columns:
            found = [z for (*search, _), z in results.items() if search == [way, window, children]]
            cells.append(_cell(found))
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(values: Sequence[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.2f} (1)" if values else ""
    mean, half = interval(values)
    return f"{mean:.2f} ± {half:.2f} ({len(values)})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("results", type=Path, help="file of the results, one JSON object a line")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--windows", nargs="+", type=int, default=[20, 40])
    parser.add_argument("--children", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=20, help="searches of each kind")
    parser.add_argument("--first-seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    done = read(args.results)
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    for seed, window, way in itertools.product(seeds, args.windows, args.ways):
        if (way, window, args.children, seed) in done:
            continue
        began = time.process_time()
        z = late_z(WAYS[way](), window=window, children=args.children, seed=seed)
        entry = {"way": way, "window": window, "children": args.children, "seed": seed, "z": z}
        entry["cpu_seconds"] = round(time.process_time() - began, 1)
        args.results.parent.mkdir(parents=True, exist_ok=True)
        with args.results.open("a") as file:
            file.write(json.dumps(entry) + "\n")
    print("Late mean z, its 95 % interval, and the number of searches.\n")
    print(table(read(args.results)))


if __name__ == "__main__":
    main()
