"""One Lightning Trainer for all stages: quiet, exactly resumable, guarded."""

import logging
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy

from backbones.base import Backbone
from backbones.network import ACTIVATION_MEMORY, NASNet
from runtime.distributed import launched_by_torchrun
from runtime.finite import NonFiniteGuard
from runtime.folder import RunFolder
from runtime.interrupts import Interrupts
from runtime.resume import LAST, RandomState, TimedCheckpoint

ACCELERATORS = ("auto", "cpu", "gpu")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
_CLASSIFICATION_ONLY = ("compile",)


@dataclass(kw_only=True)
class TrainerConfig:
    """Where and how a training runs; nothing here is part of a recipe."""

    accelerator: str = "auto"
    """`auto` (a CUDA GPU where there is one, else cpu), `cpu` or `gpu`."""
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
        if self.accelerator not in ACCELERATORS:
            raise ValueError(
                f"trainer.accelerator = {self.accelerator!r}, expected one of {', '.join(ACCELERATORS)}"
            )
        if self.accelerator == "gpu" and not torch.cuda.is_available():
            raise ValueError("trainer.accelerator = gpu, but there is no CUDA device here; use auto or cpu")
        if self.precision not in PRECISIONS:
            raise ValueError(
                f"trainer.precision = {self.precision!r}, expected one of {', '.join(PRECISIONS)}"
            )
        if self.precision == "16-mixed" and not torch.cuda.is_available():
            raise ValueError("trainer.precision = 16-mixed needs CUDA; use 32-true or bf16-mixed")
        if self.activation_memory not in ACTIVATION_MEMORY:
            raise ValueError(
                f"trainer.activation_memory = {self.activation_memory!r}, expected one of "
                f"{', '.join(ACTIVATION_MEMORY)}"
            )
        if self.compile and self.compile_backend not in (
            known := torch.compiler.list_backends(exclude_tags=())
        ):
            raise ValueError(
                f"trainer.compile_backend = {self.compile_backend!r}, known here are {', '.join(known)}"
            )
        if self.compile and self.activation_memory == "checkpoint":
            raise ValueError(
                "trainer.compile = true does not go with activation_memory = checkpoint; use keep or lean"
            )
        for key in ("devices", "num_nodes", "threads", "checkpoint_steps", "log_every_steps"):
            if (value := getattr(self, key)) is not None and value < 1:
                raise ValueError(f"trainer.{key} = {value}, must be at least 1")
        if self.checkpoint_seconds is not None and self.checkpoint_seconds < 0:
            raise ValueError(f"trainer.checkpoint_seconds = {self.checkpoint_seconds}, must not be negative")

    @property
    def processes(self) -> int:
        """Of the whole training."""
        return self.devices * self.num_nodes

    @property
    def device(self) -> torch.device:
        """Of a training by one process."""
        return torch.device("cuda" if self.accelerator != "cpu" and torch.cuda.is_available() else "cpu")

    def images_per_pass(self, batch_size: int, accumulate: int) -> int:
        """Images of one backward pass of one process. Raises ValueError where they do not come out even."""
        passes = accumulate * self.processes
        if batch_size % passes:
            raise ValueError(
                f"recipe.batch_size = {batch_size}, must be a multiple of recipe.accumulate x "
                f"trainer.devices x trainer.num_nodes = {accumulate} x {self.devices} x {self.num_nodes}"
            )
        return batch_size // passes

    def refuse_for(self, stage: str) -> None:
        """Raises ValueError for the first key that only the training of a classifier knows."""
        for key in _CLASSIFICATION_ONLY:
            if (value := getattr(self, key)) != getattr(TrainerConfig, key):
                raise ValueError(f"{stage} does not support trainer.{key} = {value} yet")

    def prepare(self, network: Backbone) -> None:
        """Sets a network's layout and what it keeps for the backward pass; ValueError where it cannot."""
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        network.to(memory_format=layout)  # type: ignore[call-overload]
        if isinstance(network, NASNet):
            network.set_activation_memory(self.activation_memory)
        elif self.activation_memory != "keep":
            raise ValueError(
                f"trainer.activation_memory = {self.activation_memory} is for "
                "networks of cells only; set keep"
            )

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function` itself where nothing is to be compiled."""
        return torch.compile(function, backend=self.compile_backend) if self.compile else function

    def build(
        self,
        folder: RunFolder,
        loggers: Sequence[Logger],
        callbacks: Sequence[L.Callback],
        *,
        max_epochs: int | None = None,
        max_steps: int | None = None,
        gradient_clip_norm: float | None = None,
        accumulate: int = 1,
        validate_every_epochs: int | None = 1,
    ) -> L.Trainer:
        """A Trainer that checkpoints into `folder`; sets PyTorch's thread count where `threads` says so.

        max_epochs, max_steps: the end, whichever comes first; at least one must be given.
        accumulate: batches per optimiser step. validate_every_epochs: None: never.
        """
        if max_epochs is None and max_steps is None:
            raise ValueError("neither max_epochs nor max_steps says when training ends")
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        on_cuda = self.device.type == "cuda"
        self._check_processes(on_cuda)
        _quieten_lightning()
        interrupts = Interrupts()
        trainer = InterruptibleTrainer(
            # Lightning's own `auto` would also take accelerators on which nothing here has been tried.
            accelerator="cuda" if on_cuda else "cpu",
            devices=self.devices,
            num_nodes=self.num_nodes,
            # Buffers differ between ranks until `broadcast_buffers`: batch norm's are rank 0's in the end.
            strategy=DDPStrategy(find_unused_parameters=False, broadcast_buffers=False)
            if self.processes > 1 or self.sync_batch_norm
            else "auto",
            sync_batchnorm=self.sync_batch_norm,
            use_distributed_sampler=False,  # ResumableLoader knows its rank
            precision=self.precision,  # type: ignore[arg-type]
            deterministic=self.deterministic,
            logger=list(loggers) or False,
            callbacks=[
                *callbacks,
                RandomState(),
                NonFiniteGuard(folder.path),
                TimedCheckpoint(
                    checkpoint_folder(folder),
                    interrupts,
                    every_seconds=self.checkpoint_seconds,
                    every_steps=self.checkpoint_steps,
                ),
            ],
            max_epochs=-1 if max_epochs is None else max_epochs,
            max_steps=-1 if max_steps is None else max_steps,
            gradient_clip_val=gradient_clip_norm,
            accumulate_grad_batches=accumulate,
            check_val_every_n_epoch=validate_every_epochs or 1,
            limit_val_batches=None if validate_every_epochs else 0,
            num_sanity_val_steps=0,
            log_every_n_steps=self.log_every_steps,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder.path,
        )
        trainer.interrupts = interrupts
        return trainer

    def _check_processes(self, on_cuda: bool) -> None:
        """Raises ValueError where the launcher or the machine do not fit to what is asked for."""
        started = launched_by_torchrun()
        if started is not None and started != self.processes:
            raise ValueError(
                f"torchrun started {started} processes, but trainer.devices = {self.devices} and "
                f"trainer.num_nodes = {self.num_nodes} ask for {self.processes}"
            )
        if self.num_nodes > 1 and started is None and "SLURM_NTASKS" not in os.environ:
            raise ValueError(
                f"trainer.num_nodes = {self.num_nodes} needs torchrun or SLURM: docs/distributed.md"
            )
        if on_cuda and self.devices > (cards := torch.cuda.device_count()):
            raise ValueError(f"trainer.devices = {self.devices}, but there are {cards} CUDA devices here")
        if self.sync_batch_norm and not on_cuda:
            raise ValueError("trainer.sync_batch_norm needs CUDA devices; leave it false on a CPU")
        if self.sync_batch_norm and self.activation_memory == "lean":
            raise ValueError(
                "trainer.sync_batch_norm does not go with activation_memory = lean; use checkpoint"
            )
        if self.processes > 1 and self.threads is not None:
            # Lightning would share the cores between the processes instead.
            os.environ.setdefault("OMP_NUM_THREADS", str(self.threads))


class InterruptibleTrainer(L.Trainer):
    """Lightning's, whose `fit` ends with KeyboardInterrupt, not with `sys.exit`, when it is interrupted."""

    interrupts: Interrupts

    def fit(self, *args: Any, **kwargs: Any) -> None:
        with self.interrupts.deferred():
            super().fit(*args, **kwargs)


def checkpoint_folder(folder: RunFolder) -> Path:
    return folder.path / "checkpoints"


def last_checkpoint(folder: RunFolder) -> Path | None:
    """The checkpoint to continue from, for `fit(ckpt_path=..., weights_only=True)`; None at the start."""
    path = checkpoint_folder(folder) / LAST
    return path if path.exists() else None


def _quieten_lightning() -> None:
    """Silences Lightning's greetings and the warnings that do not concern our loaders and callbacks."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*smaller than the logging interval.*",  # short runs; the epoch's figures are logged anyway
        ".*does not have many workers.*",
        ".*in eval mode at the start of training.*",  # detection.backbone.FrozenStatistics, on purpose
        ".*`broadcast_buffers` is deprecated.*",  # its successor is younger than the oldest supported PyTorch
        ".*Grad strides do not match bucket view strides.*",  # 1x1 convolutions in channels_last
        ".*sync_dist=True.*",  # the figures have been added up over the ranks when they are logged
        ".*treespec, LeafSpec.*",  # Lightning 2.6 with PyTorch 2.14, once per loader
        ".*`lr_scheduler.step\\(\\)` before `optimizer.step\\(\\)`.*",
    ):
        warnings.filterwarnings("ignore", message)
