"""How images become optimiser steps, on all devices together."""

import logging
import math
from dataclasses import dataclass, field
from typing import Any

from backbones.ranges import KEY, ConfigError
from backbones.words import counted
from runtime.config import TrainerConfig

log = logging.getLogger(__name__)

FAR = 4
"""A rate scaled by more, up or down, is worth a warning."""


@dataclass(frozen=True)
class StepPlan:
    """batch_size: images per optimiser step. accumulate: backward passes per step of each process.

    trainer: whose processes share a step out. Raises ConfigError unless `batch_size` divides evenly
    among passes and processes. What does not fill a whole step of an epoch is left out."""

    batch_size: int
    accumulate: int = 1
    trainer: TrainerConfig = field(default_factory=TrainerConfig)

    def __post_init__(self) -> None:
        if self.batch_size % (self.accumulate * self.trainer.processes):
            raise ConfigError(
                f"{KEY}recipe.batch_size = {self.batch_size}, must be a multiple of {KEY}recipe.accumulate x "
                f"{KEY}trainer.devices x {KEY}trainer.num_nodes = "
                f"{self.accumulate} x {self.trainer.devices} x {self.trainer.num_nodes}"
            )

    @property
    def images_per_pass(self) -> int:
        """Images of one backward pass of one process."""
        return self.batch_size // (self.accumulate * self.trainer.processes)

    @property
    def images_per_norm(self) -> int:
        """Images that batch normalisation computes one statistic of."""
        return self.images_per_pass * (self.trainer.processes if self.trainer.sync_batch_norm else 1)

    def check(self, images: int) -> None:
        """Raises ConfigError where so many training images fill no step."""
        if images < self.batch_size:
            few = 2 ** int(math.log2(max(1, images // 16)))  # some 16 steps an epoch
            raise ConfigError(
                f"{KEY}recipe.batch_size = {self.batch_size} exceeds the "
                f"{counted(images, 'training image')}; set for "
                f"example {KEY}recipe.batch_size={few}"
            )

    def steps_per_epoch(self, images: int) -> int:
        """Raises as `check` does."""
        self.check(images)
        return images // self.batch_size

    def __str__(self) -> str:
        if self.images_per_pass == self.batch_size:
            return f"{counted(self.batch_size, 'image')} per step"
        return (
            f"{counted(self.batch_size, 'image')} per step: {counted(self.trainer.devices, 'device')} x "
            f"{counted(self.trainer.num_nodes, 'node')} x "
            f"{counted(self.accumulate, 'accumulated batch', 'accumulated batches')} of "
            f"{self.images_per_pass}"
        )


def scaled_rate(lr: float, batch_size: int, reference_batch_size: int | None, power: float = 1.0) -> float:
    """The learning rate for steps on `batch_size` images: `lr` times a power of the ratio of the sizes.

    reference_batch_size: images per step that `lr` is meant for. None: `lr` is taken as it is. power: 1, the
    linear rule of 1706.02677, section 2.1, for SGD; 0.5 for Adam, whose steps have a length of their own
    (2205.10287)."""
    return lr if reference_batch_size is None else lr * (batch_size / reference_batch_size) ** power


def log_rate(lr: float, used: float, batch_size: int, reference_batch_size: int | None) -> None:
    """Logs the rate that a recipe's `lr` was scaled to; as a warning where it is far from it."""
    if used == lr:
        return
    if max(used / lr, lr / used) <= FAR:
        log.info("learning rate %.4g for %s per step", used, counted(batch_size, "image"))
        return
    times, direction = (used / lr, "higher") if used > lr else (lr / used, "lower")
    log.warning(
        "The learning rate is %.3g, %.3g times %s than recipe.lr = %.3g: that is for "
        "recipe.reference_batch_size = %d, and recipe.batch_size = %d. So far from it the "
        "rule may fail; to train at %.3g set recipe.reference_batch_size=null",
        *(used, times, direction, lr, reference_batch_size, batch_size, lr),
    )


def at_step(trainer: Any, step: int) -> dict[str, float]:
    """For `LightningModule.log_dict`: the figures belong to `step`, counted from 1.

    Without it Lightning counts training steps from 0, and puts an evaluation at the step before the last. A
    figure of the step that a checkpoint has would then seem to lie after it, and be dropped at a resume."""
    return {"epoch": float(trainer.current_epoch), "step": float(step)}
