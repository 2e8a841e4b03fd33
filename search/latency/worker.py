"""The process that times networks: it holds nothing else, and dies with the one that started it.

It reads one JSON object from its input, `{"config": …, "genotypes": […]}`, and answers with a line for each
cell, in their order: `{"passes": [milliseconds, …]}`, or `{"error": text}`.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

from runtime.interrupts import ignore_signals
from runtime.launch import die_with_parent

TOGETHER = 8
"""Networks that are held at a time, and timed in turns."""


def main() -> None:
    die_with_parent(int(sys.argv[1]))
    ignore_signals()
    asked = json.load(sys.stdin)
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer

    import torch

    from backbones.genotype import Genotype
    from search.latency.config import LatencyConfig

    config = LatencyConfig(**asked["config"])
    torch.set_num_threads(config.threads)
    genotypes = [Genotype.from_dict(each) for each in asked["genotypes"]]
    for start in range(0, len(genotypes), TOGETHER):
        for answer in _timed(genotypes[start : start + TOGETHER], config):
            print(json.dumps(answer), file=answers, flush=True)


def _timed(genotypes: list[Any], config: Any) -> list[dict[str, Any]]:
    from search.latency.network import runner
    from search.latency.passes import clock_of, interleaved

    found: list[Callable[[], object] | str] = []
    for genotype in genotypes:
        try:
            found.append(runner(genotype, config))
        except (ValueError, RuntimeError, ImportError) as error:  # an engine that cannot run the network
            found.append(f"{type(error).__name__}: {error}")
    programs = [each for each in found if callable(each)]
    passes = iter(interleaved(programs, clock_of(config.threads)))
    return [{"error": each} if isinstance(each, str) else {"passes": next(passes)} for each in found]
