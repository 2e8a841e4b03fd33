"""The executors as values."""

from dataclasses import dataclass
from typing import ClassVar

from backbones.ranges import require
from runtime.config import MOST_PROCESSES, Builds


@dataclass(kw_only=True)
class InlineConfig(Builds):
    """One child after the other in the search's own process."""

    builds: ClassVar[str] = "search.executors.inline:InlineExecutor"
    name: str = "inline"

    def __post_init__(self) -> None:
        require(self, "name", among=("inline",))


@dataclass(kw_only=True)
class ProcessConfig(Builds):
    """Children in processes of this machine, each of which imports PyTorch once and runs one at a time."""

    builds: ClassVar[str] = "search.executors.processes:ProcessExecutor"
    name: str = "process"
    workers: int | None = None
    """Processes. None: as many as the CPU's cores hold children of `child.threads`, or on GPUs
    `workers_per_gpu` for each of them."""
    workers_per_gpu: int = 1
    """Children that share a GPU."""
    memory_gb: float | None = None
    """Memory in GB (1e9 bytes) for all children together. Children wait until what they are predicted to
    need is free. If they need more than that in truth, the largest is ended as out of memory and repeated
    alone. None: 80 % of what is available when the search starts."""
    timeout_seconds: float | None = None
    """Wall time after which the process of a child is killed, whatever it is doing. None: `grace_seconds`
    after `child.timeout_seconds`, if that is set."""
    grace_seconds: float = 30.0
    """Seconds above `child.timeout_seconds` in which a child may end by itself."""

    def __post_init__(self) -> None:
        require(self, "name", among=("process",))
        require(self, "workers", "workers_per_gpu", least=1, limit=MOST_PROCESSES)
        require(self, "memory_gb", "timeout_seconds", above=0)
        require(self, "grace_seconds", least=0)
