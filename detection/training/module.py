"""What Lightning drives: an engine, its losses, an optimiser with its schedule."""

from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from detection.data.images import Sample
from detection.engines.base import Engine
from detection.training.recipe import DetectionRecipe
from runtime.steps import at_step


class DetectionModule(L.LightningModule):
    """Trains an engine; logs the sum of its losses as `loss`, and each by its name.

    With several processes, those of the first one's images. loss_parts: of the step that ran last; where an
    engine could not compute them, as its proposals are not finite, `proposals` is not a number.
    total_steps: of the whole training, for the schedule."""

    def __init__(self, engine: Engine, recipe: DetectionRecipe, total_steps: int):
        super().__init__()
        self.engine = engine
        self.recipe = recipe
        self.total_steps = total_steps
        self.loss_parts: dict[str, Tensor] = {}

    def training_step(self, samples: list[Sample], batch_index: int) -> Tensor:
        images = [sample["image"].float() / 255 for sample in samples]
        try:
            losses = self.engine.losses(images, [sample["target"] for sample in samples])
        except FloatingPointError:
            # As a value: the guard, which all processes ask before they go on, then stops all of them.
            self.loss_parts = {"proposals": torch.full((), torch.nan)}
            return torch.full((), torch.nan, device=self.device, requires_grad=True)
        self.loss_parts = {name: loss.detach() for name, loss in losses.items()}
        total = torch.stack(list(losses.values())).sum()
        where = at_step(self.trainer, self.trainer.global_step + 1)
        self.log_dict({"loss": total, **losses, **where}, batch_size=len(images))
        return total

    def configure_optimizers(self) -> Any:
        recipe = self.recipe
        optimizer = torch.optim.SGD(
            decay_groups(self.engine, recipe.weight_decay), lr=recipe.scaled_lr, momentum=recipe.momentum
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: recipe.rate(step, self.total_steps)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def decay_groups(engine: Engine, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups without what is frozen: decay on all but the scales and shifts of norms.

    Source: Detectron2's WEIGHT_DECAY and WEIGHT_DECAY_NORM = 0."""
    kinds = _BatchNorm | nn.GroupNorm | nn.LayerNorm
    of_norms = {p for m in engine.modules() if isinstance(m, kinds) for p in m.parameters(recurse=False)}
    trained = [p for p in engine.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p not in of_norms], "weight_decay": weight_decay},
        {"params": [p for p in trained if p in of_norms], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
