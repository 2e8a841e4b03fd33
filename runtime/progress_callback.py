"""Progress of a Lightning Trainer."""

from typing import Any

import lightning as L
from rich.console import Console

from runtime.progress import Track


class ProgressCallback(L.Callback):
    """Shows progress over a Trainer's optimiser steps, with the loss that `log("loss", …)` left.

    images_per_step: of all processes together."""

    def __init__(self, description: str, images_per_step: int) -> None:
        self.description, self.images_per_step = description, images_per_step
        self._track: Track | None = None
        self._step = 0

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._step = trainer.global_step
        if not trainer.is_global_zero:
            return
        total = int(trainer.estimated_stepping_batches)
        console = Console(stderr=True)
        self._track = Track(console, total, self.description, self._step, self.images_per_step)

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        if self._track is not None and trainer.global_step > self._step:
            figures = {key: float(trainer.callback_metrics[key]) for key in self._shown(trainer)}
            self._track.advance(trainer.global_step - self._step, **figures)
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

    def _shown(self, trainer: L.Trainer) -> list[str]:
        # Reading a figure waits for the device, so it is done rarely where that costs.
        fresh = trainer.strategy.root_device.type == "cpu" or trainer.global_step % 50 == 0
        return [key for key in ("loss",) if fresh and key in trainer.callback_metrics]

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._close()

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        if self._track is not None:
            self._track.close()
            self._track = None
