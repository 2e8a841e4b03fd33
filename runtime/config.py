"""What every stage's run is told besides its own keys: where figures go, on what and how training runs.

Ranges are checked when a value is made; what this machine must have is checked when a run takes the value:
packages by `check_extras`, devices by `runtime.device` and `runtime.trainer`.
"""

import dataclasses
import importlib.util
import pkgutil
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from backbones.ranges import KEY, ConfigError, require
from backbones.spec import ACTIVATION_MEMORY
from celltransfer import not_installed

RENAMED = {"recipe.lr_batch_size": "recipe.reference_batch_size", "trainer.accelerator": "trainer.device"}
"""Old names of keys: new names."""
ADDED: dict[str, object] = {
    "init": None,
    "recipe.head_init": "fan_out",
    "child.precision": "32-true",
    "child.channels_last": True,
    "data.val_fraction": 0.2,
    "data.split_seed": 0,
}
"""Keys that older runs did not have: the value that they had."""
LOGGERS = ("csv", "wandb", "tensorboard", "none")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
MOST_PROCESSES = 1024
"""Processes of one machine that a key may ask for, and threads of one process."""


class Builds:
    """A choice that stands for an object of one class, which is imported when the object is built."""

    builds: ClassVar[str]
    """`module:Class`; the class takes the choice and what `build` is given."""

    def build(self, *parts: Any) -> Any:
        """The object, made of the choice and of the parts that its class asks for."""
        return pkgutil.resolve_name(self.builds)(self, *parts)


def check_extras(config: Any, key: str = "") -> None:
    """Raises ModuleNotFoundError for the first choice whose packages are not installed, with the command.

    config: a dataclass. It and those below it may have `extras()`, modules that the choice needs and the
    extra that installs each, and `parts()`, the names of the fields that a run takes; all where there is
    none. A stage that is finished needs nothing. key: where `config` stands."""
    run_dir = getattr(config, "run_dir", None)
    if run_dir is not None and (Path(run_dir) / "metrics.json").is_file():
        return
    for module, extra in config.extras().items() if hasattr(config, "extras") else ():
        if importlib.util.find_spec(module) is None:
            raise not_installed(f"{key}.name = {config.name}", module, extra)
    fields = [field.name for field in dataclasses.fields(config)]
    for name in config.parts() if hasattr(config, "parts") else fields:
        if dataclasses.is_dataclass(part := getattr(config, name)):
            check_extras(part, f"{key}.{name}" if key else name)


def check_device_name(name: str) -> None:
    """Raises ConfigError, of a key `device`, unless `runtime.device.resolve_device` knows the name."""
    if not re.fullmatch(r"auto|cpu(:0)?|cuda(:(0|[1-9]\d*))?", name):
        raise ConfigError(f"{KEY}device = {name!r}, expected auto, cpu, cuda or cuda:<number>")


@dataclass(kw_only=True)
class LoggerConfig:
    """Where the figures of a run go. A CSV file, `metrics.csv`, is written unless the name is `none`."""

    name: str = "csv"
    """`csv`, `wandb`, `tensorboard` or `none`."""
    project: str = "celltransfer"
    """wandb's project."""
    group: str | None = None
    """Ties the runs of one pipeline together in wandb."""

    def __post_init__(self) -> None:
        require(self, "name", among=LOGGERS)

    def extras(self) -> dict[str, str]:
        """See `runtime.config.check_extras`."""
        return {"tensorboard": "tensorboard"} if self.name == "tensorboard" else {}


@dataclass(kw_only=True)
class TrainerConfig:
    """Where and how a training runs; nothing here is part of a recipe."""

    device: str = "auto"
    """`auto` (cuda where there is one, else cpu), `cpu`, `cuda` or `cuda:<number>`."""
    devices: int = 1
    """Processes on each machine, each with its own CUDA GPU, or all on its CPU."""
    num_nodes: int = 1
    """Machines. More than one are started by torchrun or SLURM: docs/distributed.md."""
    sync_batch_norm: bool = False
    """Batch norm over the images of all devices together, on GPUs; False: of each device's own."""
    precision: str = "32-true"
    """`32-true`, `bf16-mixed`, or `16-mixed` (CUDA only)."""
    threads: int | None = None
    """Threads of PyTorch on CPU; None: PyTorch's choice, the number of cores."""
    channels_last: bool = True
    """Keep images and weights in channels-last order, which convolutions prefer; False: NCHW."""
    activation_memory: str = "keep"
    """What is kept for the backward pass: `keep`, everything; `lean` and `checkpoint` need less memory and
    more time (docs/performance.md). `checkpoint` does not go with `compile`."""
    compile: bool = False
    """Compile the training step's network with `torch.compile`; evaluation stays as it is."""
    compile_backend: str = "inductor"
    """Of `compile`, one of `torch.compiler.list_backends()`."""
    deterministic: bool = False
    """Only deterministic kernels; equal runs on a GPU, slower. On CPU runs are equal without it."""
    checkpoint_seconds: float | None = 300.0
    """Longest time between two checkpoints; None: only by steps."""
    checkpoint_steps: int | None = None
    """Most optimiser steps between two checkpoints; None: only by time."""
    log_every_steps: int = 50
    """Optimiser steps between two logged training losses."""

    def __post_init__(self) -> None:
        check_device_name(self.device)
        require(self, "precision", among=PRECISIONS)
        require(self, "activation_memory", among=ACTIVATION_MEMORY)
        require(self, "devices", "threads", least=1, limit=MOST_PROCESSES)
        require(self, "num_nodes", least=1, limit=100_000)
        require(self, "checkpoint_steps", "log_every_steps", least=1)
        require(self, "checkpoint_seconds", least=0)
        if self.device.startswith("cuda:") and self.processes > 1:
            raise ConfigError(
                f"{KEY}device = {self.device} is one device; for more of them set {KEY}device=cuda"
            )
        if self.compile and self.activation_memory == "checkpoint":
            raise ConfigError(
                f"{KEY}compile = true does not go with {KEY}activation_memory = checkpoint; use keep or lean"
            )

    @property
    def processes(self) -> int:
        """Of the whole training."""
        return self.devices * self.num_nodes


@dataclass(kw_only=True)
class EvaluationConfig:
    """Where an evaluation runs and what it leaves; the stages add what is evaluated."""

    device: str = "auto"
    """`auto` (cuda where there is one, else cpu), `cpu`, `cuda` or `cuda:<number>`."""
    threads: int | None = None
    """Threads of PyTorch on CPU. None: PyTorch's choice."""
    output: str | None = None
    """Folder for metrics.json and the files beside it, of which `python -m pipeline.report` makes a page.
    None: the metrics are only printed."""
    logger: LoggerConfig = field(default_factory=lambda: LoggerConfig(name="none"))
    """Where figures, tables and images go besides; needs `output`."""

    def __post_init__(self) -> None:
        check_device_name(self.device)
        require(self, "threads", least=1, limit=MOST_PROCESSES)
        if self.logger.name != "none" and self.output is None:
            raise ConfigError(
                f"{KEY}logger = {self.logger.name}, but there is no output folder; set {KEY}output=DIR"
            )
