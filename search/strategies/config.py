"""The strategies as values."""

import pkgutil
from dataclasses import dataclass, field
from typing import Any, ClassVar

from backbones.ranges import require
from runtime.config import Builds

RATIOS = ("decision", "architecture", "drop", "vtrace")


@dataclass(kw_only=True)
class StrategyConfig(Builds):
    """What all strategies have."""

    learns: ClassVar[bool] = True
    """Whether results change what is proposed."""
    start: list[str] = field(default_factory=list)
    """Genotype files. Their cells are the first children; the strategy does not learn from them."""

    def build(self, *parts: Any) -> Any:
        """The strategy for a space and a seed. Raises FileNotFoundError or ValueError for a wrong `start`."""
        strategy = super().build(*parts)
        if not self.start:
            return strategy
        return pkgutil.resolve_name("search.strategies.start:KnownFirst")(strategy, parts[0], self.start)


@dataclass(kw_only=True)
class RandomConfig(StrategyConfig):
    """Uniform random search, the paper's baseline."""

    learns: ClassVar[bool] = False

    builds: ClassVar[str] = "search.strategies.uniform:RandomSearch"
    name: str = "random"

    def __post_init__(self) -> None:
        require(self, "name", among=("random",))


@dataclass(kw_only=True)
class PrimSkipConfig(StrategyConfig):
    """Random search among the cells that Wan et al. (2203.08887) found as good as searched ones."""

    learns: ClassVar[bool] = False

    builds: ClassVar[str] = "search.strategies.prim_skip:PrimSkip"
    name: str = "prim_skip"

    def __post_init__(self) -> None:
        require(self, "name", among=("prim_skip",))


@dataclass(kw_only=True)
class EvolutionConfig(StrategyConfig):
    """Regularised evolution; defaults are those of Real et al. (1802.01548, section 3.3)."""

    builds: ClassVar[str] = "search.strategies.evolution:Evolution"
    name: str = "evolution"
    population: int = 100
    """Scored children that may become parents: the newest."""
    sample: int = 25
    """Members drawn for each child, with replacement; the best of them is its parent."""

    def __post_init__(self) -> None:
        require(self, "name", among=("evolution",))
        require(self, "population", "sample", least=1, limit=100_000)


@dataclass(kw_only=True)
class ControllerConfig(StrategyConfig):
    """The LSTM controller trained with PPO; defaults are the paper's where it states them."""

    builds: ClassVar[str] = "search.strategies.controller:Controller"
    name: str = "controller"
    hidden: int = 100
    """Units of the LSTM; 100 in the paper."""
    init: float = 0.1
    """Weights start uniform in +-init; 0.1 in the paper."""
    lr: float = 3.5e-4
    """Adam's learning rate; 3.5e-4 in the paper."""
    architectures_per_update: int = 20
    """Results per update; 20 in the paper."""
    passes: int = 4
    """Optimiser steps per update, each on the whole batch; not stated in the paper."""
    clip: float = 0.2
    """PPO's ratio is clipped to 1 +- clip; not stated in the paper."""
    ratio: str = "decision"
    """How results that come late are weighed, by ratios of probabilities, the policy's now to the sampler's:
    `decision`, one per decision; `architecture`, one for all of them together, the paper's reading; `drop`,
    as `architecture`, but nothing is learned outside the clip; `vtrace`, truncated importance weights.
    docs/search.md compares them."""
    entropy_weight: float = 1e-5
    """Weight of the entropy bonus, in reward per nat; 1e-5 in the paper."""
    baseline_decay: float = 0.95
    """Of the moving average of rewards; 0.95 in the paper."""
    failed_reward: float = 0.0
    """Reward that stands for a failed child."""

    def __post_init__(self) -> None:
        require(self, "name", among=("controller",))
        require(self, "hidden", least=1, limit=4096)
        require(self, "architectures_per_update", "passes", least=1, limit=100_000)
        require(self, "init", "lr", "clip", above=0)
        require(self, "ratio", among=RATIOS)
        require(self, "entropy_weight", least=0)
        require(self, "baseline_decay", least=0, below=1)
