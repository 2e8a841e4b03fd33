"""One Lightning Trainer for all stages: quiet, exactly resumable, guarded."""

import logging
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy

from backbones.base import ActivationMemory, Backbone
from backbones.ranges import KEY, ConfigError, under
from backbones.words import counted
from runtime.checkpoints import BesideTarget, usable_checkpoint
from runtime.config import TrainerConfig
from runtime.device import resolve_device
from runtime.finite import NonFiniteGuard
from runtime.folder import RunFolder
from runtime.growth import OwnCourse
from runtime.interrupts import Interrupts
from runtime.launch import launched_by_torchrun
from runtime.resume import CHECKPOINTS, RandomState, TimedCheckpoint


def training_device(config: TrainerConfig) -> torch.device:
    """Of a training run in one process; of several, `cuda` stands for each one's own."""
    return resolve_device(config.device)


def check_machine(config: TrainerConfig) -> None:
    """Raises ValueError where this machine cannot do what is asked for."""
    with under("trainer"):
        device = resolve_device(config.device)
    if config.precision == "16-mixed" and device.type != "cuda":
        raise ConfigError(f"{KEY}trainer.precision = 16-mixed needs CUDA; use 32-true or bf16-mixed")
    if config.compile and config.compile_backend not in (
        known := torch.compiler.list_backends(exclude_tags=())
    ):
        raise ConfigError(
            f"{KEY}trainer.compile_backend = {config.compile_backend!r}, known here are {', '.join(known)}"
        )


def prepare_network(config: TrainerConfig, network: Backbone) -> None:
    """Sets a network's layout and what it keeps for the backward pass; ValueError where it cannot."""
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    network.to(memory_format=layout)  # type: ignore[call-overload]
    if isinstance(network, ActivationMemory):
        network.set_activation_memory(config.activation_memory)
    elif config.activation_memory != "keep":
        raise ConfigError(
            f"{KEY}trainer.activation_memory = {config.activation_memory} is for networks of cells; set keep"
        )


def compiled(config: TrainerConfig, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` itself where nothing is to be compiled."""
    return torch.compile(function, backend=config.compile_backend) if config.compile else function


def build_trainer(
    config: TrainerConfig,
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
    """A Trainer that checkpoints into `folder`; sets PyTorch's thread count where `config.threads` says so.

    max_epochs, max_steps: the end, whichever comes first; at least one must be given.
    accumulate: batches per optimiser step. validate_every_epochs: None: never.
    """
    if max_epochs is None and max_steps is None:
        raise ValueError("neither max_epochs nor max_steps says when training ends")
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    device = training_device(config)
    _check_processes(config, device.type == "cuda")
    _quieten_lightning()
    interrupts = Interrupts()
    trainer = InterruptibleTrainer(
        # Lightning's own `auto` would also take accelerators on which nothing here has been tried.
        accelerator=device.type,
        devices=[device.index] if device.type == "cuda" and device.index is not None else config.devices,
        num_nodes=config.num_nodes,
        # Buffers differ between ranks until `broadcast_buffers`: batch norm's are rank 0's in the end.
        strategy=DDPStrategy(find_unused_parameters=False, broadcast_buffers=False)
        if config.processes > 1 or config.sync_batch_norm
        else "auto",
        sync_batchnorm=config.sync_batch_norm,
        use_distributed_sampler=False,  # ResumableLoader knows its rank
        precision=config.precision,  # type: ignore[arg-type]
        deterministic=config.deterministic,
        logger=list(loggers) or False,
        callbacks=[
            *callbacks,
            OwnCourse(checkpoint_folder(folder)),
            RandomState(),
            NonFiniteGuard(folder.path),
            TimedCheckpoint(
                checkpoint_folder(folder),
                interrupts,
                every_seconds=config.checkpoint_seconds,
                every_steps=config.checkpoint_steps,
            ),
        ],
        max_epochs=-1 if max_epochs is None else max_epochs,
        max_steps=-1 if max_steps is None else max_steps,
        gradient_clip_val=gradient_clip_norm,
        accumulate_grad_batches=accumulate,
        check_val_every_n_epoch=validate_every_epochs or 1,
        limit_val_batches=None if validate_every_epochs else 0,
        num_sanity_val_steps=0,
        log_every_n_steps=config.log_every_steps,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder.path,
        plugins=[BesideTarget()],
    )
    trainer.interrupts = interrupts
    return trainer


def _check_processes(config: TrainerConfig, on_cuda: bool) -> None:
    """Raises ValueError where the launcher or the machine do not fit to what is asked for."""
    started = launched_by_torchrun()
    if started is not None and started != config.processes:
        raise ConfigError(
            f"torchrun started {counted(started, 'process', 'processes')}, but "
            f"{KEY}trainer.devices = {config.devices} and "
            f"{KEY}trainer.num_nodes = {config.num_nodes} ask for {config.processes}"
        )
    if config.num_nodes > 1 and started is None and "SLURM_NTASKS" not in os.environ:
        raise ConfigError(
            f"{KEY}trainer.num_nodes = {config.num_nodes} needs torchrun or SLURM: docs/distributed.md"
        )
    if on_cuda and config.devices > (cards := torch.cuda.device_count()):
        raise ConfigError(f"{KEY}trainer.devices = {config.devices}, but there are {cards} CUDA devices here")
    if config.sync_batch_norm and not on_cuda:
        raise ConfigError(f"{KEY}trainer.sync_batch_norm needs CUDA devices; leave it false on a CPU")
    if config.sync_batch_norm and config.activation_memory == "lean":
        raise ConfigError(
            f"{KEY}trainer.sync_batch_norm does not go with {KEY}trainer.activation_memory = lean; "
            "use checkpoint"
        )
    if config.processes > 1 and config.threads is not None:
        # Lightning would share the cores between the processes instead.
        os.environ.setdefault("OMP_NUM_THREADS", str(config.threads))


class InterruptibleTrainer(L.Trainer):
    """Lightning's, whose `fit` ends with KeyboardInterrupt, not with `sys.exit`, when it is interrupted."""

    interrupts: Interrupts

    def fit(self, *args: Any, **kwargs: Any) -> None:
        with self.interrupts.deferred():
            super().fit(*args, **kwargs)


def checkpoint_folder(folder: RunFolder) -> Path:
    return folder.path / CHECKPOINTS


def last_checkpoint(
    folder: RunFolder, module: L.LightningModule | None = None, continues: str | None = None
) -> Path | None:
    """The checkpoint to continue from, for `fit(ckpt_path=..., weights_only=True)`; None at the start.

    module: what goes on from it. continues: the checkpoint to begin with, of another run; None: no such run.
    Raises ValueError where all that are there are damaged or of others."""
    own = usable_checkpoint(checkpoint_folder(folder), module)
    return Path(continues) if own is None and continues is not None else own


def _quieten_lightning() -> None:
    """Silences Lightning's greetings and the warnings that do not concern our loaders and callbacks."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*smaller than the logging interval.*",  # short runs; the epoch's figures are logged anyway
        ".*does not have many workers.*",
        ".*in eval mode at the start of training.*",  # detection.model.norms.FrozenStatistics, on purpose
        ".*`broadcast_buffers` is deprecated.*",  # its successor is younger than the oldest supported PyTorch
        ".*Grad strides do not match bucket view strides.*",  # 1x1 convolutions in channels_last
        ".*sync_dist=True.*",  # the figures have been added up over the ranks when they are logged
        ".*treespec, LeafSpec.*",  # Lightning 2.6 with PyTorch 2.14, once per loader
        ".*`lr_scheduler.step\\(\\)` before `optimizer.step\\(\\)`.*",
    ):
        warnings.filterwarnings("ignore", message)
