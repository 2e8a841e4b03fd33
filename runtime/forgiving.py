"""Loggers of other packages whose failure never stops a run."""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

from runtime.patience import patiently
from runtime.wandb_runs import WandbRun

log = logging.getLogger(__name__)


class _Forgiving(Logger):
    """Makes a logger that warns once and goes quiet when its tracker fails."""

    tracker: str
    failed = False

    def _call(self, method: Callable[[], None]) -> None:
        method()

    def _attempt(self, method: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        if self.failed:
            return
        try:
            self._call(partial(method, *args, **kwargs))
        except Exception as error:  # any failure of a tracker is one: the run matters more
            self.failed = True
            action = method.__name__
            log.warning("%s failed in %s and is left out from here on: %s", self.tracker, action, error)

    def log_metrics(self, *args: Any, **kwargs: Any) -> None:
        self._attempt(super().log_metrics, *args, **kwargs)  # type: ignore[safe-super]

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        self._attempt(super().log_hyperparams, *args, **kwargs)  # type: ignore[safe-super]

    def save(self) -> None:
        self._attempt(super().save)

    def finalize(self, *args: Any, **kwargs: Any) -> None:
        self._attempt(super().finalize, *args, **kwargs)


class ForgivingWandbLogger(_Forgiving, WandbLogger):
    """wandb's, which may also stand still."""

    tracker = "wandb"

    def __init__(self, experiment: Any, described: WandbRun):
        super().__init__(experiment=experiment)
        self.described = described

    def _call(self, method: Callable[[], None]) -> None:
        patiently(method)


class ForgivingTensorBoardLogger(_Forgiving, TensorBoardLogger):
    """TensorBoard's."""

    tracker = "TensorBoard"
