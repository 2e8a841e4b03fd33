"""The executors as values."""

import re
from dataclasses import dataclass
from typing import ClassVar

from backbones.ranges import KEY, ConfigError, require
from runtime.config import MOST_PROCESSES, Builds

MOST_RAY_WORKERS = 100_000
MOST_ORPHAN_MINUTES = 60 * 24 * 366


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


@dataclass(kw_only=True)
class RayConfig(Builds):
    """Children on the nodes of a Ray cluster: docs/cluster.md."""

    builds: ClassVar[str] = "search.executors.ray_cluster:RayExecutor"
    name: str = "ray"
    address: str = "auto"
    """Of the cluster's head, as `HOST:PORT`; `auto`: the cluster that this machine is a node of."""
    workers: int | None = None
    """Most children at a time. None: as many as the nodes have room for."""
    num_cpus: float | None = None
    """CPUs of a child, for Ray's bookkeeping. None: `child.threads`."""
    num_gpus: float = 0.0
    """GPUs of a child. 0.5: two children share a GPU; 0: children run on the CPU."""
    timeout_seconds: float | None = None
    """Wall time after which the process of a child is killed, whatever it is doing. None: `grace_seconds`
    after `child.timeout_seconds`, if that is set."""
    grace_seconds: float = 30.0
    """Seconds above `child.timeout_seconds` in which a child may end by itself."""
    orphan_minutes: float = 120.0
    """Minutes that a child's process goes on, and keeps its result, without hearing from a driver."""

    def __post_init__(self) -> None:
        require(self, "name", among=("ray",))
        if not re.fullmatch(r"auto|[^/\s]+:\d{1,5}", self.address):
            raise ConfigError(
                f"{KEY}address = {self.address!r}, expected auto or HOST:PORT; the driver must run on a "
                "node of the cluster, so ray:// is no address of it"
            )
        require(self, "workers", least=1, limit=MOST_RAY_WORKERS)
        require(self, "num_cpus", "timeout_seconds", above=0)
        require(self, "num_gpus", "grace_seconds", least=0)
        require(self, "orphan_minutes", least=1, limit=MOST_ORPHAN_MINUTES)
        if self.num_gpus > 1 and self.num_gpus != int(self.num_gpus):
            raise ConfigError(f"{KEY}num_gpus = {self.num_gpus}, expected a part of one GPU or whole GPUs")

    def extras(self) -> dict[str, str]:
        """See `runtime.config.check_extras`."""
        return {"ray": "ray"}


def killed_after(config: ProcessConfig | RayConfig, own: float | None) -> float | None:
    """Seconds after which the process of a child is killed; None: never.

    own: the evaluator's `timeout_seconds`, at which it should end the child itself."""
    limits = [config.timeout_seconds, None if own is None else own + config.grace_seconds]
    return min((limit for limit in limits if limit is not None), default=None)
