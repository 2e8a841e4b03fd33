"""Progress of a Lightning Trainer."""

from typing import Any

import lightning as L
import torch
from rich.console import Console
from torch import Tensor

from runtime.progress import Track, as_text

WINDOW = 20
"""Batches that the loss shown is averaged over, with weights that fall exponentially."""
STEPS_BETWEEN = 50
"""Steps between two looks at the loss on a GPU: each waits for the device."""


class ProgressCallback(L.Callback):
    """Shows progress over a Trainer's optimiser steps: epoch, rate, running mean of the loss and its parts.

    The module keeps the terms of its loss as `loss_parts`. images_per_step: of all processes together."""

    def __init__(self, description: str, images_per_step: int) -> None:
        self.description, self.images_per_step = description, images_per_step
        self._track: Track | None = None
        self._step = 0
        self._mean = RunningMean()

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._step = trainer.global_step
        if not trainer.is_global_zero:
            return
        total = int(trainer.estimated_stepping_batches)
        console = Console(stderr=True)
        self._track = Track(console, total, self.description, self._step, self.images_per_step)

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        if self._track is None:
            return
        self._mean.add(getattr(module, "loss_parts", {}))
        if trainer.global_step > self._step:
            looks = trainer.strategy.root_device.type == "cpu" or trainer.global_step % STEPS_BETWEEN == 0
            self._track.advance(trainer.global_step - self._step, self._figures(trainer) if looks else "")
            self._step = trainer.global_step

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._show_validation(batch_idx + 1, trainer)

    def on_validation_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._show_validation(0, trainer)

    def _show_validation(self, done: int, trainer: L.Trainer) -> None:
        if self._track is not None:
            self._track.aside(f"evaluation {done}/{trainer.num_val_batches[0]}")

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if self._track is not None:
            self._track.back()

    def _figures(self, trainer: L.Trainer) -> str:
        epochs = trainer.max_epochs or -1
        epoch = f"epoch {trainer.current_epoch + 1}" + (f"/{epochs}" if epochs > 0 else "")
        rate = as_text({"lr": trainer.optimizers[0].param_groups[0]["lr"]})
        return f"{epoch}  {rate}  {self._mean.shown()}"  # a narrow window cuts the parts of the loss

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._close()

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        if self._track is not None:
            self._track.close()
            self._track = None


class RunningMean:
    """Exponential average of the terms of a loss, which begins as the plain mean. It stays on the device."""

    def __init__(self) -> None:
        self._count = 0
        self._names: list[str] = []
        self._mean = torch.zeros(0)

    def add(self, parts: dict[str, Tensor]) -> None:
        """parts: scalars of one batch, without gradients. Other names than before begin a new average."""
        if not parts:
            return
        values = torch.stack(list(parts.values())).float()
        if list(parts) != self._names:
            self._names, self._count, self._mean = list(parts), 0, values
        self._count = min(self._count + 1, WINDOW)
        self._mean = torch.lerp(self._mean, values, 1 / self._count)

    def shown(self) -> str:
        """Such as `loss 1.5  (cls 1, aux 0.5)`; the parts are left out where there is one."""
        values = self._mean.tolist()
        total = as_text({"loss": sum(values)})
        if len(values) < 2:
            return total
        parts = {name.removeprefix("loss_"): value for name, value in zip(self._names, values, strict=True)}
        return f"{total}  ({as_text(parts, ', ')})"
