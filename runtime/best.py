"""The best value of a figure in the course of training, and the step it came at."""

from typing import Any

import lightning as L


class BestFigure(L.Callback):
    """Follows the figure that validations log as `logged`. name: in `state_dict`, which is also in
    checkpoints."""

    of_one_run = True
    """See `runtime.growth.OwnCourse`."""

    def __init__(self, name: str, logged: str) -> None:
        self.name, self.logged = name, logged
        self.value: float | None = None
        self.step = 0

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if self.logged in trainer.callback_metrics:
            self.offer(float(trainer.callback_metrics[self.logged]), trainer.global_step)

    def offer(self, value: float, step: int) -> None:
        """Takes a value that is better than all before."""
        if self.value is None or value > self.value:
            self.value, self.step = value, step

    def state_dict(self) -> dict[str, Any]:
        return {self.name: self.value, "step": self.step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.value, self.step = state_dict[self.name], state_dict["step"]
