"""The executors as values."""

from dataclasses import dataclass
from typing import ClassVar

from backbones.ranges import require
from runtime.config import Builds


@dataclass(kw_only=True)
class InlineConfig(Builds):
    """One child after the other in the search's own process."""

    builds: ClassVar[str] = "search.executors.inline:InlineExecutor"
    name: str = "inline"

    def __post_init__(self) -> None:
        require(self, "name", among=("inline",))


@dataclass(kw_only=True)
class SimulatedConfig(Builds):
    """Workers whose time is virtual; only `search.simulate` has them."""

    builds: ClassVar[str] = "search.executors.simulated:SimulatedExecutor"
    workers: int = 500
    """Children at a time; 500 GPUs in the paper."""

    def __post_init__(self) -> None:
        require(self, "workers", least=1)
