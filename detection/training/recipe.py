"""How a detector is trained, as values: batch, rate and its schedule, averaging, normalisation."""

import bisect
import dataclasses
from dataclasses import dataclass, field

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
            raise ValueError(f"recipe.epochs = {self.epochs}, recipe.steps = {self.steps}: give exactly one")
        if isinstance(self.batch_size, str) and self.batch_size != AUTO:
            raise ValueError(
                f"recipe.batch_size = {self.batch_size!r}, expected a number of images or {AUTO}"
            )
        numbers = ("epochs", "steps", "batch_size", "accumulate", "reference_batch_size", "patience")
        for key in numbers:
            value = getattr(self, key)
            if not (value is None or value == AUTO) and value < 1:
                raise ValueError(f"recipe.{key} = {value}, must be at least 1")
        for key in ("lr", "clip_norm"):
            if (value := getattr(self, key)) is not None and not value > 0:
                raise ValueError(f"recipe.{key} = {value}, must be above 0")
        for key in ("momentum", "ema_decay"):
            if (value := getattr(self, key)) is not None and not 0 <= value < 1:
                raise ValueError(f"recipe.{key} = {value}, must be in [0, 1)")
        for key in ("warmup_steps", "weight_decay"):
            if getattr(self, key) < 0:
                raise ValueError(f"recipe.{key} = {getattr(self, key)}, must be at least 0")
        if self.norm not in NORMS:
            raise ValueError(f"recipe.norm = {self.norm!r}, expected one of {', '.join(NORMS)}")
        self._check_milestones()

    def _check_milestones(self) -> None:
        shares = all(0 < milestone < 1 for milestone in self.milestones)
        steps = all(milestone >= 1 and milestone == int(milestone) for milestone in self.milestones)
        if self.milestones != sorted(self.milestones) or not (shares or steps):
            raise ValueError(
                f"recipe.milestones = {self.milestones}, must be rising shares between 0 and 1, or rising "
                "steps from 1 on"
            )

    @property
    def images_per_step(self) -> int:
        """`batch_size` as a number. Raises ValueError while it is `auto`."""
        if isinstance(self.batch_size, str):
            raise ValueError(f"recipe.batch_size = {self.batch_size} has not been found yet")
        return self.batch_size

    @property
    def scaled_lr(self) -> float:
        if self.reference_batch_size is None:
            return self.lr
        return self.lr * self.images_per_step / self.reference_batch_size

    def freezes_statistics(self, pretrained: bool) -> bool:
        """Whether a backbone, its weights loaded or not, normalises by its stored statistics in training."""
        return pretrained if self.norm == AUTO else self.norm == "frozen"

    def with_batch_size(self, images: int) -> "DetectionRecipe":
        return dataclasses.replace(self, batch_size=images)

    def total_steps(self, images: int) -> int:
        """Optimiser steps of the whole training on so many images; incomplete batches are left out.

        Raises ValueError when there is no whole batch."""
        batch = self.accumulate if self.batch_size == AUTO else self.images_per_step
        if images < batch:
            raise ValueError(f"recipe.batch_size = {self.batch_size} exceeds the {images} training images")
        return self.steps if self.epochs is None else self.epochs * (images // batch)  # type: ignore[return-value]

    def rate(self, step: int, total: int) -> float:
        """Share of the peak rate at `step`, counted from 0."""
        place = step if self.milestones and self.milestones[0] >= 1 else step / total
        decayed = 0.1 ** bisect.bisect_right(self.milestones, place)
        if step >= self.warmup_steps:
            return decayed
        return decayed * (0.001 + 0.999 * step / self.warmup_steps)
