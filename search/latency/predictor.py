"""Milliseconds of a network from its costs, by a model of this machine that some timed cells teach."""

import itertools
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from backbones.costs import profile
from backbones.files import convert_json
from backbones.genotype import Genotype
from backbones.words import counted
from runtime.progress import track
from runtime.random import derive
from search.latency.config import LatencyConfig
from search.latency.measure import Timing, measure
from search.latency.network import target
from search.space import Space

log = logging.getLogger(__name__)

COSTS = ("multiply_adds", "activation_bytes", "pooled_bytes", "gathered_bytes")
LATENCY_MODEL = "latency_model"
"""A fact of a ledger."""


@dataclass(frozen=True)
class LatencyModel:
    """milliseconds: of one unit of each cost of `costs_of`, none below 0. cells: that taught it."""

    milliseconds: Mapping[str, float]
    cells: int

    def predict(self, genotype: Genotype, config: LatencyConfig) -> float:
        """config: the one that the cells were timed with."""
        costs = costs_of(genotype, config)
        return sum(each * costs[name] for name, each in self.milliseconds.items())


def costs_of(genotype: Genotype, config: LatencyConfig) -> dict[str, float]:
    """What takes time in the network of a cell, by name, for one image; `backbones.costs.Profile` has each.

    Of the sets of up to seven counts that were tried on 50 random cells, these four predicted cells that had
    taught nothing best (docs/performance.md)."""
    side = round(math.sqrt(config.height * config.width))
    costs = profile(target(genotype, config), image_size=side)
    return {name: getattr(costs, name) for name in COSTS}


def fitted(
    genotypes: Sequence[Genotype], milliseconds: Sequence[float], config: LatencyConfig
) -> LatencyModel:
    """Least squares of the relative error, with coefficients that are not below 0."""
    names = list(costs_of(genotypes[0], config))
    costs = np.array([list(costs_of(each, config).values()) for each in genotypes])
    relative = costs / np.array(milliseconds)[:, None]
    return LatencyModel(dict(zip(names, _not_negative(relative), strict=True)), len(genotypes))


def _not_negative(relative: np.ndarray) -> list[float]:
    """The coefficients `[k]`, none below 0, that bring `relative` `[n, k]` times them closest to ones.

    k is small, so every choice of those above 0 is tried."""
    count = relative.shape[1]
    best, found = math.inf, np.zeros(count)
    for size in range(1, count + 1):
        for chosen in map(list, itertools.combinations(range(count), size)):
            values, *_ = np.linalg.lstsq(relative[:, chosen], np.ones(len(relative)), rcond=None)
            error = float(np.square(relative[:, chosen] @ values - 1).sum())
            if values.min() >= 0 and error < best:
                best, found = error, np.zeros(count)
                found[chosen] = values
    return found.tolist()


def known_or_calibrated(
    known: Any, where: str, space: Space, config: LatencyConfig, seed: int
) -> LatencyModel:
    """The model that is `known`, as JSON gave it, or one that is made now. where: what held it."""
    if known is None:
        return calibrated(space, config, seed)
    return convert_json(known, LatencyModel, f"{where}: {LATENCY_MODEL}.")


def calibrated(space: Space, config: LatencyConfig, seed: int) -> LatencyModel:
    """The model of this machine, from `config.calibration` random cells, which it times, with progress.

    Raises RuntimeError where the engine runs too few of them."""
    drawn = [space.decode(space.sample(derive(seed, "latency"), i)) for i in range(config.calibration)]
    log.info("timing %s once, to predict latencies on this machine", counted(len(drawn), "random cell"))
    with track(len(drawn), "latency") as progress:
        timings = measure(drawn, config, lambda done: progress.advance())
    return learned(drawn, timings, config)


def learned(genotypes: Sequence[Genotype], timings: Sequence[Timing], config: LatencyConfig) -> LatencyModel:
    """`fitted` of the cells that ran. Raises RuntimeError where half of them did not."""
    ran = [
        (cell, timing.milliseconds) for cell, timing in zip(genotypes, timings, strict=True) if timing.passes
    ]
    if len(ran) <= len(genotypes) // 2:
        error = next(timing.error for timing in timings if timing.error)
        raise RuntimeError(
            f"latency.engine = {config.engine}: {counted(len(genotypes) - len(ran), 'cell')} failed: {error}"
        )
    return fitted([cell for cell, _ in ran], [each for _, each in ran], config)
