"""Evaluations in the course of a training: the best weights are kept, and it ends when none get better."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import WeightAveraging

from runtime.distributed import broadcast_buffers, gather

log = logging.getLogger(__name__)


class Validation(L.Callback):
    """Evaluates after every `every` optimiser steps, but for the last, which another evaluation follows.

    evaluate: gives COCO's numbers in the first process, whatever in the others; called in all of them.
    keep: called in the first process with numbers better than all before, while their weights are in place.
    patience: evaluations without a better AP after which the training ends; None: never. One without any AP,
    because no box is annotated, does not count.
    averaging: whose average is evaluated and kept, where there is one.

    It is part of the step: its checkpoint comes after it. So a run that is killed in an evaluation does the
    steps since the last checkpoint again, and the evaluation with them, as if nothing had happened."""

    of_one_run = True
    """See `runtime.growth.OwnCourse`."""

    def __init__(
        self,
        evaluate: Callable[[], Mapping[str, float]],
        keep: Callable[[Mapping[str, float]], None],
        *,
        every: int,
        patience: int | None = None,
        averaging: WeightAveraging | None = None,
    ) -> None:
        self.evaluate, self.keep = evaluate, keep
        self.every, self.patience, self.averaging = every, patience, averaging
        self.best: float | None = None
        self.best_step = 0
        self._step = self._worse = 0

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_step": self.best_step, "worse": self._worse, "step": self._step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.best_step = state_dict["best"], state_dict["best_step"]
        self._worse, self._step = state_dict["worse"], state_dict["step"]

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._end(trainer)  # killed between the checkpoint of its last step and its end

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        step = trainer.global_step
        if step == self._step or step % self.every or step >= trainer.estimated_stepping_batches:
            return
        self._step = step
        if self.averaging is not None:
            self.averaging.on_validation_epoch_start(trainer, module)
        broadcast_buffers(module)
        metrics = gather(self.evaluate())[0]
        better = self.offer(step, metrics, first=trainer.is_global_zero)
        module.train()
        if self.averaging is not None:
            self.averaging.on_validation_epoch_end(trainer, module)
        for logger in trainer.loggers:
            logger.log_metrics({f"val/{name}": value for name, value in metrics.items()}, step)
        self._worse = 0 if better else self._worse + ("AP" in metrics)
        self._end(trainer)

    def offer(self, step: int, metrics: Mapping[str, float], *, first: bool = True) -> bool:
        """Keeps what `step` left where its AP is the best so far; whether it is. first: the first process.

        Nothing is kept where there is no AP because no box is annotated."""
        ap = metrics.get("AP")
        if ap is None or (self.best is not None and ap <= self.best):
            return False
        self.best, self.best_step = ap, step
        if first:
            self.keep(metrics)
        return True

    def _end(self, trainer: L.Trainer) -> None:
        if self.patience is not None and self._worse >= self.patience:
            log.info("The training ends: no AP above %.4g since step %d", self.best, self.best_step)
            trainer.should_stop = True
