"""A search as a value: its space, its budget, and the choices that its folders configure."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from backbones.genotype import COMBINATIONS, MOST_BLOCKS, OPERATION_NAMES
from backbones.ranges import KEY, ConfigError, require, under
from classification.config import ImageDataConfig
from runtime.config import LoggerConfig
from search.children.config import ChildConfig
from search.latency.config import LATENCY, LatencyConfig
from search.messages import COUNTS, TRAINING_METRICS

MOST_WINDOW = 100_000
"""Children that may be proposed before the first result."""
REFERENCES = {"evaluator": ("data", "child", "seed")}
"""A field, and those to which references from it stay references, as text: `${child}`,
`${child.epochs}`. So a search that is run again with other children gives its evaluator those."""

EVALUATORS = {"recorded": {"_target_": "search.table.recorded.Recorded"}}
"""Evaluators by name."""


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
        require(self, "blocks", least=1, limit=MOST_BLOCKS)
        for name, known in (("operations", OPERATION_NAMES), ("combinations", COMBINATIONS)):
            chosen = getattr(self, name)
            if unknown := [option for option in chosen if option not in known]:
                raise ConfigError(f"{KEY}{name} holds {unknown[0]!r}, expected some of {', '.join(known)}")
            if not chosen or len(set(chosen)) != len(chosen):
                raise ConfigError(f"{KEY}{name} = {list(chosen)}, must name at least one, and none twice")


@dataclass(kw_only=True)
class BudgetConfig:
    """When a search ends. All of it may change when a search continues."""

    children: int = 20_000
    """Proposals, duplicates and failures included; 20,000 in the paper."""
    hours: float | None = None
    """Wall time, earlier runs included, after which no child is started. None: no limit."""
    max_attempts: int = 5
    """Runs of one child, ended by lost hosts and killed processes, before the search pauses."""
    failures_in_a_row: int = 20
    """Failed children in a row at which the search pauses: the fault is then hardly theirs."""
    rejections_in_a_row: int = 1000
    """Proposals in a row above a limit at which the search pauses: the limits then leave hardly anything."""

    def __post_init__(self) -> None:
        require(self, "children", "failures_in_a_row", "rejections_in_a_row", least=1)
        require(self, "max_attempts", least=2)
        require(self, "hours", above=0)


@dataclass(kw_only=True)
class LimitsConfig:
    """What the network of a child may cost. Cells above a limit are rejected, never run. None: no limit."""

    parameters: int | None = None
    """Trainable parameters."""
    multiply_adds: int | None = None
    """Multiply-adds of one image."""
    activation_bytes: int | None = None
    """Of one image in training, in float32."""
    latency_ms: float | None = None
    """Predicted milliseconds of the network that `latency` describes, on this machine."""

    def __post_init__(self) -> None:
        require(self, "parameters", "multiply_adds", "activation_bytes", least=1)
        require(self, "latency_ms", above=0)


@dataclass(kw_only=True)
class ObjectiveConfig:
    """Lets a child's cost count in its reward: accuracy x (cost / target) ^ exponent."""

    cost: str | None = None
    """`parameters`, `multiply_adds`, `activation_bytes`, or a metric: `latency_ms`, or what the evaluator
    returns. None: the reward is the accuracy."""
    target: float | None = None
    """The cost that leaves the accuracy as it is, in the unit of the cost; needed with `cost`."""
    exponent: float = -0.07
    """Below 0 where less is better; -0.07 in MnasNet (1807.11626)."""

    def __post_init__(self) -> None:
        require(self, "target", above=0)
        require(self, "exponent", least=-10, most=10)
        if (self.cost is None) != (self.target is None):
            raise ConfigError(
                f"{KEY}cost = {self.cost}, {KEY}target = {self.target}; expected a cost and the value of it "
                "to aim at, or neither"
            )


@dataclass(kw_only=True)
class SearchConfig:
    """A whole search."""

    references: ClassVar[Mapping[str, tuple[str, ...]]] = REFERENCES

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
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    evaluator: Any = None
    """None trains children. Else a mapping: `_target_`, the dotted path of a callable (genotype, task) ->
    Result or number, or of a class of such callables, and its keyword arguments. `${child}`, `${data}` and
    `${seed}` among them stay references. `recorded` answers from trained cells that ship:
    `search.table.recorded`."""
    executor: Any
    """Where children run: `search.executors`."""
    metric: str | None = None
    """`latency_ms`: the network of each child is timed on this machine, too, as `latency` says. A time is
    measured once; a search that is run again from the start measures others."""
    latency: LatencyConfig = field(default_factory=LatencyConfig)
    """For `metric=latency_ms` and `limits.latency_ms`."""
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    window: int = 40
    """Virtual workers: how many children are proposed before the first of them is learned from. It is part
    of what the search is; at least twice the real workers keeps those busy."""
    ledger: str | None = None
    """Folder on a local disk for the ledger, of which a copy is kept in `run_dir`; needed where `run_dir` is
    on a file system that machines share, such as NFS. None: `run_dir`."""
    strict_hardware: bool = False
    """Refuse, instead of warn, to continue on another processor, device or version of PyTorch."""
    logger: LoggerConfig = field(default_factory=LoggerConfig)

    def __post_init__(self) -> None:
        require(self, "window", least=1, limit=MOST_WINDOW)
        self.evaluator = named_evaluator(self.evaluator)
        require(self, "metric", among=(LATENCY,))
        if self.objective.cost == LATENCY and self.evaluator is None and self.metric is None:
            raise ConfigError(f"{KEY}objective.cost = {LATENCY} needs {KEY}metric = {LATENCY}")
        if self.evaluator is None and self.objective.cost is not None:
            with under("objective"):
                require(self.objective, "cost", among=(*COUNTS, *TRAINING_METRICS, LATENCY))

    def parts(self) -> list[str]:
        """See `runtime.config.check_extras`: an evaluator of the user's own opens no images of ours."""
        names = [field.name for field in fields(self)]
        return names if self.evaluator is None else [name for name in names if name not in ("data", "child")]


@dataclass(kw_only=True)
class SimulateConfig:
    """A search of which only the times are simulated: loop, ledger and strategy are the real ones."""

    seed: int = 0
    """Of the strategy and of the times."""
    children: int = 20_000
    """Proposals, duplicates included; 20,000 in the paper."""
    workers: int = 500
    """Children that run at a time; 500 GPUs in the paper."""
    window: int = 1000
    """Virtual workers, as in a search."""
    order: str = "virtual"
    """`virtual`, the search's own. `arrival` is for comparison: a worker that ends a child gets the next
    proposal at once, made of all that has arrived by then. No search has it: it cannot be repeated."""
    spread: float = 2.0
    """How far true times are from the predicted ones: the 95th percentile of true / predicted through the
    5th. The logarithm is normal. 1: predictions are exact."""
    space: SpaceConfig = field(default_factory=SpaceConfig)
    strategy: Any
    """What to try next: `search.strategies`."""
    child: ChildConfig = field(default_factory=ChildConfig)
    """How the children whose times are predicted would be trained."""
    evaluator: Any = None
    """What scores children; see `SearchConfig`. None: a table of rewards with interactions."""
    ledger_file: str | None = None
    """Where to keep the ledger. None: it is deleted."""

    def __post_init__(self) -> None:
        self.evaluator = named_evaluator(self.evaluator)
        require(self, "children", least=1)
        require(self, "workers", "window", least=1, limit=MOST_WINDOW)
        require(self, "order", among=("virtual", "arrival"))
        require(self, "spread", least=1, most=1000)


def named_evaluator(value: Any) -> Any:
    """The mapping that a name means; else the value, a mapping or None. Raises ConfigError for another."""
    if value is None or isinstance(value, Mapping):
        return value
    if not isinstance(value, str) or value not in EVALUATORS:
        known = ", ".join(EVALUATORS)
        raise ConfigError(
            f"{KEY}evaluator = {value!r}, expected {known}, or _target_ and arguments: docs/search.md"
        )
    return dict(EVALUATORS[value])
