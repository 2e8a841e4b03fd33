"""A search and its parts as values: space, strategy, children, executor, budget."""

from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from backbones.genotype import COMBINATIONS, OPERATION_NAMES, Genotype
from backbones.spec import NetworkSpec
from classification.config import ImageDataConfig
from runtime.config import Builds, LoggerConfig, check_device_name


@dataclass(kw_only=True)
class SpaceConfig:
    """What the search may build."""

    blocks: int = 5
    """Blocks per cell; 5 in the paper."""
    operations: list[str] = field(default_factory=lambda: list(OPERATION_NAMES))
    """Operations to choose from; all 13 in the paper."""
    combinations: list[str] = field(default_factory=lambda: list(COMBINATIONS))
    """How a block may join its two operands."""

    def __post_init__(self) -> None:
        if self.blocks < 1:
            raise ValueError(f"space.blocks = {self.blocks}, must be at least 1")
        for name, known in (("operations", OPERATION_NAMES), ("combinations", COMBINATIONS)):
            chosen = getattr(self, name)
            if unknown := [option for option in chosen if option not in known]:
                raise ValueError(f"space.{name} holds {unknown[0]!r}, expected some of {', '.join(known)}")
            if not chosen or len(set(chosen)) != len(chosen):
                raise ValueError(f"space.{name} = {list(chosen)}, must name at least one, and none twice")


@dataclass(kw_only=True)
class RandomConfig(Builds):
    """Uniform random search, the paper's baseline."""

    builds: ClassVar[str] = "search.strategies.controller:RandomSearch"
    name: str = "random"


@dataclass(kw_only=True)
class ControllerConfig(Builds):
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
    entropy_weight: float = 1e-5
    """Weight of the entropy bonus, in reward per nat; 1e-5 in the paper."""
    baseline_decay: float = 0.95
    """Of the moving average of rewards; 0.95 in the paper."""
    failed_reward: float = 0.0
    """Reward that stands for a failed child."""

    def __post_init__(self) -> None:
        for name in ("hidden", "architectures_per_update", "passes"):
            if getattr(self, name) < 1:
                raise ValueError(f"strategy.{name} = {getattr(self, name)}, must be at least 1")
        for name in ("init", "lr", "clip"):
            if getattr(self, name) <= 0:
                raise ValueError(f"strategy.{name} = {getattr(self, name)}, must be above 0")
        if self.entropy_weight < 0:
            raise ValueError(f"strategy.entropy_weight = {self.entropy_weight}, must not be negative")
        if not 0 <= self.baseline_decay < 1:
            raise ValueError(f"strategy.baseline_decay = {self.baseline_decay}, must be in [0, 1)")


@dataclass(kw_only=True)
class ChildConfig:
    """How a child is built, trained and scored."""

    cells_per_stage: int = 2
    """Normal cells per stage; 2 in the paper."""
    filters: int = 24
    """Channels of a state in the first stage; not stated in the paper."""
    image_size: int = 32
    """Side in pixels to which images are resized on the device."""
    epochs: int = 20
    """Passes over the training images; 20 in the paper."""
    batch_size: int = 64
    """Images per step; an incomplete last batch is left out."""
    lr: float = 0.025
    """Learning rate at the start of the cosine."""
    momentum: float = 0.9
    """Of SGD; 0.9 in the paper."""
    weight_decay: float = 5e-4
    """L2 on convolutions and classifier, not on batch norm."""
    batch_norm_momentum: float = 0.1
    """Weight of the newest batch in the running statistics; trainings below 100 steps want more."""
    clip_norm: float | None = 5.0
    """Largest global norm of the gradient; None does not clip."""
    validation: int | None = None
    """Training images held out for the reward, in the classes' proportions; None: the paper's tenth."""
    training: int | None = None
    """Training images used, in the classes' proportions; None: all that are not held out."""
    timeout_seconds: float | None = None
    """Wall time after which a child fails; checked at every step."""
    threads: int = 1
    """CPU threads of one child. Rewards repeat exactly only with the same number."""
    device: str = "auto"
    """`auto` (cuda where there is one, else cpu), `cpu`, `cuda` or `cuda:<number>`."""

    def __post_init__(self) -> None:
        for name in ("cells_per_stage", "filters", "image_size", "epochs", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"child.{name} = {getattr(self, name)}, must be at least 1")
        if self.batch_size < 2:
            raise ValueError(f"child.batch_size = {self.batch_size}, batch norm needs at least 2")
        if self.lr <= 0:
            raise ValueError(f"child.lr = {self.lr}, must be above 0")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"child.momentum = {self.momentum}, must be in [0, 1)")
        if not 0 < self.batch_norm_momentum <= 1:
            raise ValueError(f"child.batch_norm_momentum = {self.batch_norm_momentum}, must be in (0, 1]")
        if self.weight_decay < 0:
            raise ValueError(f"child.weight_decay = {self.weight_decay}, must not be negative")
        for name in ("clip_norm", "validation", "training", "timeout_seconds"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise ValueError(f"child.{name} = {value}, must be above 0, or null")
        check_device_name(self.device)

    def spec(self, genotype: Genotype) -> NetworkSpec:
        """The child's network; the stem is three times as wide as a state (docs/nasnet.md, section 4.1)."""
        return NetworkSpec(
            genotype,
            self.cells_per_stage,
            self.filters,
            stem="cifar",
            stem_filters=3 * self.filters,
            image_size=self.image_size,
            batch_norm_eps=1e-5,
            batch_norm_momentum=self.batch_norm_momentum,
        )


@dataclass(kw_only=True)
class InlineConfig(Builds):
    """One child after the other in the search's own process."""

    builds: ClassVar[str] = "search.executors.inline:InlineExecutor"
    name: str = "inline"


@dataclass(kw_only=True)
class BudgetConfig:
    """When a search ends. All of it may change when a search continues."""

    children: int = 20_000
    """Proposals, duplicates and failures included; 20,000 in the paper."""
    hours: float | None = None
    """Wall time over all sittings after which no child is started; None: no limit."""
    max_attempts: int = 5
    """Runs of one child, ended by lost hosts and killed processes, before the search pauses."""
    failures_in_a_row: int = 20
    """Failed children in a row at which the search pauses: the fault is then hardly theirs."""

    def __post_init__(self) -> None:
        for name in ("children", "failures_in_a_row"):
            if getattr(self, name) < 1:
                raise ValueError(f"budget.{name} = {getattr(self, name)}, must be at least 1")
        if self.max_attempts < 2:
            raise ValueError(f"budget.max_attempts = {self.max_attempts}, must be at least 2")
        if self.hours is not None and self.hours <= 0:
            raise ValueError(f"budget.hours = {self.hours}, must be above 0, or null")


@dataclass(kw_only=True)
class SearchConfig:
    """A whole search."""

    run_dir: str
    """Folder of the search; started again with the same one, a search continues."""
    seed: int = 0
    """Of the split, the strategy and, with the cell, of each child."""
    data: ImageDataConfig
    """Images; only the training files are read."""
    space: SpaceConfig = field(default_factory=SpaceConfig)
    strategy: Any
    """What to try next: `search.strategies`."""
    child: ChildConfig = field(default_factory=ChildConfig)
    evaluator: Any = None
    """None trains children. Else a mapping: `_target_`, the dotted path of a callable (genotype, task) ->
    Result, or of a class of such callables, and its keyword arguments."""
    executor: Any
    """Where children run: `search.executors`."""
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    window: int = 40
    """Virtual workers: how many children are proposed before the first of them is learned from. It is part
    of what the search is; at least twice the real workers keeps those busy."""
    logger: LoggerConfig = field(default_factory=LoggerConfig)

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ValueError(f"window = {self.window}, must be at least 1")

    def parts(self) -> list[str]:
        """See `runtime.config.check_extras`: an evaluator of the user's own opens no images of ours."""
        names = [field.name for field in fields(self)]
        return names if self.evaluator is None else [name for name in names if name not in ("data", "child")]
