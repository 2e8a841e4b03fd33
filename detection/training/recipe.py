"""How a detector is trained, as values: batch, rate and its schedule, averaging, normalisation."""

import bisect
from dataclasses import dataclass, field

from backbones.ranges import KEY, ConfigError, require
from classification.config import MOST_IMAGES
from runtime.steps import StepPlan, scaled_rate

AUTO = "auto"
NORMS = (AUTO, "frozen", "batch", "group")


@dataclass(kw_only=True)
class DetectionRecipe:
    """Group `recipe`. The defaults are those of Detectron2's 1x schedule, but `clip_norm` is the paper's."""

    lr: float = 0.02
    """Peak rate, for `reference_batch_size` images per step."""
    reference_batch_size: int | None = None
    """Images per step that `lr` is meant for: used is lr * batch_size / reference_batch_size, the linear rule
    of 1706.02677. None: `lr` as it is."""
    batch_size: int | str = 16
    """Images per optimiser step, on all devices together. `auto`: as many as the device holds, found before
    the first step and kept for the run."""
    accumulate: int = 1
    """Backward passes per optimiser step; more need less memory for the same `batch_size`."""
    epochs: int | None = None
    """Passes over the training images; give this or `steps`."""
    steps: int | None = 90_000
    """Optimiser steps."""
    warmup_steps: int = 1000
    """Steps over which the rate rises linearly from a thousandth."""
    milestones: list[float] = field(default_factory=lambda: [2 / 3, 8 / 9])
    """Where the rate falls to a tenth: shares of the training, below 1, or steps, from 1 on."""
    momentum: float = 0.9
    """Of SGD, in [0, 1)."""
    weight_decay: float = 1e-4
    """On all weights but those of normalisation layers."""
    clip_norm: float | None = 10.0
    """Largest norm of the gradient, the paper's; None: no bound, as in Detectron2."""
    ema_decay: float | None = None
    """Decay per step of the average of the weights that is evaluated and saved; None: the weights as such."""
    norm: str = AUTO
    """Batch normalisation of the backbone: `frozen`, stored statistics, of loaded weights only; `batch`,
    each batch's own, with trainer.sync_batch_norm those of all devices together; `group`, group normalisation
    instead, from scratch only. `auto`: frozen where weights were loaded, else batch."""
    patience: int | None = None
    """Evaluations in the training without a better AP after which it ends; None: it goes to its end."""

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.steps is None):
            other = "" if self.epochs is None else f"; to train by epochs set {KEY}steps=null"
            raise ConfigError(
                f"{KEY}epochs = {self.epochs}, {KEY}steps = {self.steps}: give exactly one{other}"
            )
        if isinstance(self.batch_size, str) and self.batch_size != AUTO:
            raise ConfigError(f"{KEY}batch_size = {self.batch_size!r}, expected a number of images or {AUTO}")
        if self.batch_size != AUTO:
            require(self, "batch_size", least=1, limit=MOST_IMAGES)
        require(self, "accumulate", "reference_batch_size", least=1, limit=MOST_IMAGES)
        require(self, "epochs", "steps", "patience", least=1)
        require(self, "lr", "clip_norm", above=0)
        require(self, "momentum", "ema_decay", least=0, below=1)
        require(self, "warmup_steps", "weight_decay", least=0)
        require(self, "norm", among=NORMS)
        self._check_milestones()

    def _check_milestones(self) -> None:
        shares = all(0 < milestone < 1 for milestone in self.milestones)
        steps = all(milestone >= 1 and milestone == int(milestone) for milestone in self.milestones)
        if self.milestones != sorted(self.milestones) or not (shares or steps):
            raise ConfigError(
                f"{KEY}milestones = {self.milestones}, must be rising shares between 0 and 1, or rising "
                "steps from 1 on"
            )

    @property
    def images_per_step(self) -> int:
        """`batch_size` as a number. Raises ValueError while it is `auto`."""
        if isinstance(self.batch_size, str):
            raise ConfigError(f"{KEY}batch_size = {self.batch_size} has not been found yet")
        return self.batch_size

    @property
    def scaled_lr(self) -> float:
        return scaled_rate(self.lr, self.images_per_step, self.reference_batch_size)

    def freezes_statistics(self, pretrained: bool) -> bool:
        """Whether a backbone, its weights loaded or not, normalises by its stored statistics in training."""
        return pretrained if self.norm == AUTO else self.norm == "frozen"

    def total_steps(self, plan: StepPlan, images: int) -> int:
        """Optimiser steps of the whole training run on so many images. Raises ConfigError as `plan` does."""
        per_epoch = plan.steps_per_epoch(images)
        return self.steps or per_epoch * (self.epochs or 0)

    def rate(self, step: int, total: int) -> float:
        """Share of the peak rate at `step`, counted from 0."""
        place = step if self.milestones and self.milestones[0] >= 1 else step / total
        decayed = 0.1 ** bisect.bisect_right(self.milestones, place)
        if step >= self.warmup_steps:
            return decayed
        return decayed * (0.001 + 0.999 * step / self.warmup_steps)
