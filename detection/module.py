"""How a detector is trained: its losses, optimiser and schedule as a Lightning module."""

import bisect
from dataclasses import dataclass, field
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from detection.data import DetectionImages, Sample, collate
from detection.engines.base import Engine
from runtime.loading import ResumableLoader


@dataclass(kw_only=True)
class DetectionRecipe:
    """Group `recipe`. The defaults are those of Detectron2's 1x schedule, but `clip_norm` is the paper's."""

    lr: float = 0.02
    """Peak rate, for `batch_size` images."""
    batch_size: int = 16
    """Images per optimiser step."""
    epochs: int | None = None
    """Passes over the training images; give this or `steps`."""
    steps: int | None = 90_000
    """Optimiser steps."""
    warmup_steps: int = 1000
    """Steps over which the rate rises linearly from a thousandth."""
    milestones: list[float] = field(default_factory=lambda: [2 / 3, 8 / 9])
    """Shares of the training after which the rate falls to a tenth."""
    momentum: float = 0.9
    """Of SGD, in [0, 1)."""
    weight_decay: float = 1e-4
    """On all weights but those of normalisation layers."""
    clip_norm: float | None = 10.0
    """Largest norm of the gradient, the paper's; None: no bound, as in Detectron2."""
    freeze_statistics: bool | None = None
    """Batch normalisation of the backbone uses stored statistics. None: where its weights were loaded."""

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError(f"recipe.epochs = {self.epochs}, recipe.steps = {self.steps}: give exactly one")
        for key in ("epochs", "steps", "batch_size"):
            if (value := getattr(self, key)) is not None and value < 1:
                raise ValueError(f"recipe.{key} = {value}, must be at least 1")
        for key in ("lr", "clip_norm"):
            if (value := getattr(self, key)) is not None and not value > 0:
                raise ValueError(f"recipe.{key} = {value}, must be above 0")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"recipe.momentum = {self.momentum}, must be in [0, 1)")
        for key in ("warmup_steps", "weight_decay"):
            if getattr(self, key) < 0:
                raise ValueError(f"recipe.{key} = {getattr(self, key)}, must be at least 0")
        if self.milestones != sorted(self.milestones) or not all(0 < m < 1 for m in self.milestones):
            raise ValueError(f"recipe.milestones = {self.milestones}, must be rising shares between 0 and 1")

    def total_steps(self, images: int) -> int:
        """Optimiser steps of the whole training on so many images; incomplete batches are left out.

        Raises ValueError when there is no whole batch."""
        if images < self.batch_size:
            raise ValueError(f"recipe.batch_size = {self.batch_size} exceeds the {images} training images")
        return self.steps if self.epochs is None else self.epochs * (images // self.batch_size)  # type: ignore[return-value]

    def rate(self, step: int, total: int) -> float:
        """Share of `lr` at `step`, counted from 0."""
        decayed = 0.1 ** bisect.bisect_right(self.milestones, step / total)
        if step >= self.warmup_steps:
            return decayed
        return decayed * (0.001 + 0.999 * step / self.warmup_steps)


class DetectionModule(L.LightningModule):
    """Trains an engine; logs the sum of its losses as `loss`, and each by its name."""

    def __init__(
        self, engine: Engine, recipe: DetectionRecipe, images: DetectionImages, workers: int, seed: int
    ):
        super().__init__()
        self.engine = engine
        self.recipe = recipe
        self.images = images
        self.workers = workers
        self.seed = seed

    def train_dataloader(self) -> ResumableLoader:
        return ResumableLoader(
            self.images,
            self.recipe.batch_size,
            seed=self.seed,
            shuffle=True,
            workers=self.workers,
            drop_last=True,
            collate=collate,
        )

    def training_step(self, samples: list[Sample], batch_index: int) -> Tensor:
        images = [sample["image"].float() / 255 for sample in samples]
        losses = self.engine.losses(images, [sample["target"] for sample in samples])
        total = torch.stack(list(losses.values())).sum()
        self.log_dict({"loss": total, **losses}, batch_size=len(images))
        return total

    def configure_optimizers(self) -> Any:
        recipe = self.recipe
        total = recipe.total_steps(len(self.images))
        kinds = nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm
        norms = [p for m in self.engine.modules() if isinstance(m, kinds) for p in m.parameters()]
        of_norms = {id(p) for p in norms}
        others = [p for p in self.engine.parameters() if id(p) not in of_norms]
        groups: list[dict[str, Any]] = [{"params": others, "weight_decay": recipe.weight_decay}]
        if norms:
            groups.append({"params": norms, "weight_decay": 0.0})
        optimizer = torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: recipe.rate(step, total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
