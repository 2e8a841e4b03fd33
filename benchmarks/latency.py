"""Milliseconds of random cells' networks as measured, against those predicted from their costs.

python -m benchmarks.latency [--cells 50] [latency keys, as --filters 24]

The model learns from the first 16 cells, as that of a search does, and is judged by the others. The first 16
are measured twice, which tells how far a measurement repeats: no prediction can do better.
"""

import argparse
from dataclasses import fields

import numpy as np

from benchmarks.child_costs import random_cells, spearman
from search.latency.config import LatencyConfig
from search.latency.measure import measure
from search.latency.predictor import learned


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cells", type=int, default=50)
    for field in fields(LatencyConfig):
        parser.add_argument(
            f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default
        )
    values = vars(parser.parse_args())
    count = values.pop("cells")
    print(table(count, LatencyConfig(**values)))


def table(count: int, config: LatencyConfig) -> str:
    """count: of cells, above `config.calibration`."""
    cells, taught = random_cells(count), config.calibration
    timings = measure(cells, config, lambda done: print(f"{done} of {count}", flush=True))
    again = measure(cells[:taught], config)
    model = learned(cells[:taught], timings[:taught], config)
    times = np.array([each.milliseconds for each in timings])
    predicted = np.array([model.predict(cell, config) for cell in cells])
    rows = (
        ("predicted", predicted[taught:], times[taught:]),
        ("measured again", times[:taught], np.array([each.milliseconds for each in again])),
    )
    lines = [f"{config}", f"{times.min():.1f} to {times.max():.1f} ms, median {np.median(times):.1f} ms"]
    for name, one, other in rows:
        low, high = np.percentile(other / one, [5, 95])
        agree = f"Spearman {spearman(one, other):.3f}, p95/p5 of the ratio {high / low:.2f}"
        lines.append(f"{name}: {len(one)} cells, {agree}")
    lines += [f"{name}: {1e9 * each:.3g} ms per 1e9" for name, each in model.milliseconds.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
