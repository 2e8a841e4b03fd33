"""Callbacks that make a Lightning run exactly resumable.

With `ResumableLoader` and these, a run killed at any step and continued is bit-equal, on CPU, to one that
was not: Lightning itself keeps neither the random states nor the loader's place inside an epoch.
"""

import logging
import random
import time
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Checkpoint

from runtime.distributed import any_rank, gather, rank
from runtime.interrupts import Interrupted, Interrupts

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
"""Folder in a run's folder."""
LAST, PREVIOUS = "last.ckpt", "previous.ckpt"


class RandomState(L.Callback):
    """Stores the states of all global generators in the checkpoint, and restores them.

    Restored at the first batch, not when the checkpoint is read: what happens in between (building loaders,
    first iterators) draws from the generators, too.
    """

    def __init__(self) -> None:
        self._to_restore: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        states = gather(self._own_state())
        return states[0] if len(states) == 1 else {"ranks": states}

    def _own_state(self) -> dict[str, Any]:
        numpy = np.random.get_state(legacy=False)
        key = torch.from_numpy(numpy["state"]["key"].astype(np.int64))  # weights_only knows no arrays
        version, words, gauss = random.getstate()
        return {
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "numpy": {**numpy, "state": {**numpy["state"], "key": key}},
            "python": [version, list(words), gauss],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        states = state_dict.get("ranks", [state_dict])
        # Continued by more processes than before, the new ones keep the states that they began with.
        self._to_restore = states[rank()] if rank() < len(states) else None

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        if self._to_restore is None:
            return
        state, self._to_restore = self._to_restore, None
        torch.set_rng_state(state["torch"].cpu())
        if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all([cuda.cpu() for cuda in state["cuda"]])
        key = state["numpy"]["state"]["key"].cpu().numpy().astype(np.uint32)
        np.random.set_state({**state["numpy"], "state": {**state["numpy"]["state"], "key": key}})
        version, words, gauss = state["python"]
        random.setstate((version, tuple(words), gauss))


class TimedCheckpoint(Checkpoint):
    """Keeps `folder/last.ckpt` fresh: at least every `every_steps` optimiser steps or `every_seconds`.

    Either may be None. It is also written after the last step, also where a callback ends the training there,
    and, once `interrupts` say that the training is to stop, after the step that was running; then Interrupted
    is raised.

    `folder/previous.ckpt` is the one before it. The file is written by `BesideTarget`, so a kill at any
    moment leaves a whole one. It is written after all other callbacks of a batch that ended an optimiser
    step, but not after an epoch's last batch, unless nothing follows: Lightning takes an epoch restored from
    there as done and would leave out its validation. Of several processes the first one writes, and all do so
    and stop together. An error between two steps, such as a damaged image in the next batch, loses no step
    of a single process.
    """

    def __init__(
        self, folder: Path, interrupts: Interrupts, *, every_seconds: float | None, every_steps: int | None
    ) -> None:
        self.path = folder / LAST
        self.interrupts = interrupts
        self.every_seconds, self.every_steps = every_seconds, every_steps
        self._last_time = time.monotonic()
        self._last_step = self._step = 0
        self._between_steps = False

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._last_time, self._last_step = time.monotonic(), trainer.global_step
        self._step = trainer.global_step
        self.interrupts.listen()  # Lightning has taken SIGTERM since
        self.interrupts.asked |= trainer.received_sigterm
        if self._step:
            log.info("continuing after step %d of %d", self._step, trainer.estimated_stepping_batches)

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        self._between_steps = False

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        step = trainer.global_step
        inside_accumulation, self._step = step == self._step, step
        if inside_accumulation:
            return
        last = step >= trainer.estimated_stepping_batches or trainer.should_stop
        if trainer.is_last_batch and trainer.num_training_batches > 1 and not last:
            return
        self._between_steps = not last
        by_step = self.every_steps is not None and step - self._last_step >= self.every_steps
        late = self.every_seconds is not None and time.monotonic() - self._last_time >= self.every_seconds
        late, asked = any_rank(late, self.interrupts.asked)
        if by_step or late or last or asked:
            self._save(trainer)
        if asked:
            raise Interrupted

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if any_rank(self.interrupts.asked)[0]:  # in the validation after the last step
            raise Interrupted

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        step = trainer.global_step
        if not isinstance(exception, Exception) or not self._between_steps or trainer.world_size > 1:
            return  # other processes would wait for this one, or it for them
        try:
            if step > self._last_step:
                self._save(trainer)
        except OSError as error:  # which must not hide the exception
            log.warning("step %d is not saved: %s", step, error)
        else:
            log.info("stopped after step %d, which is saved: once mended, the same command goes on", step)

    def _save(self, trainer: L.Trainer) -> None:
        trainer.save_checkpoint(self.path)
        self._last_time, self._last_step = time.monotonic(), trainer.global_step
