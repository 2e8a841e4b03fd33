"""How images become optimiser steps, on all devices together."""

from dataclasses import dataclass, field

from backbones.ranges import KEY, ConfigError
from runtime.config import TrainerConfig


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
            raise ConfigError(
                f"{KEY}recipe.batch_size = {self.batch_size} exceeds the {images} training images"
            )

    def steps_per_epoch(self, images: int) -> int:
        """Raises as `check` does."""
        self.check(images)
        return images // self.batch_size

    def __str__(self) -> str:
        return (
            f"{self.batch_size} images per step: {self.trainer.devices} devices x "
            f"{self.trainer.num_nodes} nodes x "
            f"{self.accumulate} accumulated batches of {self.images_per_pass}"
        )


def scaled_rate(lr: float, batch_size: int, reference_batch_size: int | None) -> float:
    """The learning rate for steps on `batch_size` images: the linear rule of 1706.02677, section 2.1.

    reference_batch_size: images per step that `lr` is meant for. None: `lr` is taken as it is."""
    return lr if reference_batch_size is None else lr * batch_size / reference_batch_size
