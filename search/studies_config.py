"""The studies of cells as values: `search.rerank`, `search.probe`."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from backbones.ranges import KEY, ConfigError, require
from backbones.spec import check_sizes
from classification.config import ImageDataConfig
from search.children.config import ChildConfig
from search.config import REFERENCES, BudgetConfig, ObjectiveConfig, SpaceConfig

MOST_CELLS = 100_000


@dataclass(kw_only=True)
class LongerConfig:
    """What is changed of the search's children. None: as in the search."""

    epochs: int | None = 100
    """Passes over the training images."""
    cells_per_stage: int | None = None
    """Normal cells per stage."""
    filters: int | None = None
    """Channels of a state in the first stage."""
    training: int | None = None
    """Training images used."""
    batch_size: int | None = None
    """Images per step."""
    lr: float | None = None
    """Learning rate at the start of the cosine."""


@dataclass(kw_only=True)
class TimedConfig:
    """What is changed of the search's `latency`. None: as in the search."""

    engine: str | None = None
    """`openvino` or `torch`."""
    height: int | None = None
    """Of the image, in pixels."""
    width: int | None = None
    """Likewise."""
    cells_per_stage: int | None = None
    """Normal cells in each of the three stages."""
    filters: int | None = None
    """Channels of a state in the first stage; a multiple of 4."""
    stem_filters: int | None = None
    """Channels of the stem's convolution."""
    threads: int | None = None
    """CPU threads of one network."""
    precision: str | None = None
    """`f32` or `bf16`."""


@dataclass(kw_only=True)
class SizesConfig:
    """Sizes at which each cell is trained and timed, each with each. None: that of `child`, and `latency`."""

    cells_per_stage: list[int] | None = None
    """Normal cells per stage."""
    filters: list[int] | None = None
    """Channels of a state in the first stage."""

    def __post_init__(self) -> None:
        for name, values in vars(self).items():
            if values is not None and len(set(values)) != max(1, len(values)):
                raise ConfigError(f"{KEY}{name} = {list(values)}, expected some numbers, none twice")
        for size in self.all():
            check_sizes(TimedConfig(**size))

    def all(self) -> list[dict[str, Any]]:
        """Each as keys and values; one without keys where there is no list."""
        axes = {name: values for name, values in vars(self).items() if values is not None}
        return [dict(zip(axes, each, strict=True)) for each in itertools.product(*axes.values())]


@dataclass(kw_only=True)
class StudyBudgetConfig:
    """Of a search's budget what a study leaves open; it may change when a study continues."""

    max_attempts: int = BudgetConfig.max_attempts
    """Runs of one cell, ended by lost hosts and killed processes, before the study pauses."""

    def __post_init__(self) -> None:
        require(self, "max_attempts", least=2)


@dataclass(kw_only=True)
class RerankConfig:
    """Trains the best cells of a search longer and with several seeds (the paper's best 250)."""

    dir: str
    """Folder of the search."""
    run_dir: str
    """Folder to write to; started again with the same one, it continues."""
    top: int = 250
    """Unique cells; 250 in the paper."""
    by: str = "reward"
    """`reward`, or `pareto`: the front of accuracy against `cost` first, then the next one."""
    cost: str = "multiply_adds"
    """`parameters`, `multiply_adds`, `activation_bytes` or a metric that every child has; or `latency_ms`:
    the cells are chosen by predicted milliseconds, unless the search has measured all, and then measured."""
    sizes: SizesConfig = field(default_factory=SizesConfig)
    latency: TimedConfig = field(default_factory=TimedConfig)
    seeds: int = 2
    """Trainings of each cell, with the seeds after the search's own, which also decide the split."""
    child: LongerConfig = field(default_factory=LongerConfig)
    budget: StudyBudgetConfig = field(default_factory=StudyBudgetConfig)
    executor: Any
    """Where children run: `search.executors`."""

    def __post_init__(self) -> None:
        require(self, "top", least=1, limit=MOST_CELLS)
        require(self, "seeds", least=1, limit=1000)
        require(self, "by", among=("reward", "pareto"))
        for name, values in vars(self.sizes).items():
            if values is not None and getattr(self.child, name) is not None:
                raise ConfigError(f"{KEY}child.{name} and {KEY}sizes.{name} are both set, give one of them")


@dataclass(kw_only=True)
class ProbeConfig:
    """Ranks random cells by short and by longer training, to see what a search would measure."""

    references: ClassVar[Mapping[str, tuple[str, ...]]] = REFERENCES

    run_dir: str
    """Folder to write to; started again with the same one, it continues."""
    seed: int = 0
    """Of the cells, and the first one of their short trainings."""
    seeds: int = 2
    """Short trainings of each cell, with the seeds from `seed` on; the longer training has the last one."""
    cells: int = 20
    """Random cells, each another network; the interval of tau is some 0.6 wide with 20 cells, 0.3 with 80."""
    epochs: int = 100
    """Of the longer training; the short one has `child.epochs`."""
    data: ImageDataConfig
    """Images; only the training files are read."""
    space: SpaceConfig = field(default_factory=SpaceConfig)
    child: ChildConfig = field(default_factory=ChildConfig)
    """The children of the search that is planned."""
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    """As that of a search; cells are ranked by the reward."""
    evaluator: Any = None
    """As that of a search."""
    budget: StudyBudgetConfig = field(default_factory=StudyBudgetConfig)
    executor: Any
    """Where children run: `search.executors`."""

    def __post_init__(self) -> None:
        require(self, "cells", least=3, limit=MOST_CELLS)
        require(self, "seeds", least=2, limit=1000)
        require(self, "epochs", least=1)
        if self.epochs <= self.child.epochs:
            raise ConfigError(
                f"{KEY}epochs = {self.epochs}, must be above {KEY}child.epochs = {self.child.epochs}, "
                "the short training"
            )
