"""What the training and the evaluation of every network begin and end with."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import Logger

from backbones.ranges import KEY, ConfigError
from runtime.config import EvaluationConfig
from runtime.folder import RunFolder, plain
from runtime.launch import launched_rank
from runtime.random import counter_hash
from runtime.tracking import build_loggers, finish, log_artifact


@dataclass(frozen=True)
class Stage:
    """A stage that trains a network. name: in files and figures. may_change: keys that may change
    when a run is resumed. config, below: the stage's root dataclass."""

    name: str
    may_change: tuple[str, ...]

    def run(self, config: Any, train: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """What `train(config)` returns, or what a finished run's `metrics.json` holds.

        Of several processes the first one returns that, the others return nothing."""
        if RunFolder(Path(config.run_dir)).finished() is None:
            return train(config)
        if launched_rank():
            return {}
        folder = RunFolder.open(config.run_dir, config, stage=self.name, may_change=self.may_change)
        return folder.finished() or train(config)

    def open(self, config: Any, trainer: L.Trainer) -> RunFolder:
        """The run's folder; the first process makes it and gives the trainer its loggers.

        To be called when all that could be refused has been built: it is the first that writes."""
        if trainer.global_rank:
            return RunFolder(Path(config.run_dir))
        folder = RunFolder.open(config.run_dir, config, stage=self.name, may_change=self.may_change)
        trainer.loggers = build_loggers(config.logger, folder.path, self.name, plain(config))
        return folder

    def finish(
        self,
        folder: RunFolder,
        loggers: Sequence[Logger],
        weights: Path,
        split: str,
        metrics: Mapping[str, float],
        per_class: Mapping[str, Any],
        **more: Any,
    ) -> dict[str, Any]:
        """Closes the loggers, writes `metrics.json` and returns its content. more: its further keys.

        weights: the file that the run leaves."""
        log_artifact(loggers, weights, weights.stem)
        finish(loggers)
        return folder.finish(self.name, split, metrics, per_class, **more)


def seed_process(seed: int, rank: int) -> None:
    """Seeds the generators of Python, NumPy and PyTorch.

    Use rank 0 in all processes while weights are initialised, and then each process's own rank: dropout and
    drop path differ between processes."""
    own = int(counter_hash(seed, rank)[0] >> np.uint64(1)) if rank else seed
    random.seed(own)
    np.random.seed(own % 2**32)
    torch.manual_seed(own)


def begin_evaluation(config: EvaluationConfig) -> Path | None:
    """Sets PyTorch's threads, and returns the folder to write to.

    Raises ConfigError if that is the folder of a training run."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    folder = None if config.output is None else Path(config.output)
    if folder is not None and (folder / "config.yaml").exists():
        raise ConfigError(
            f"{KEY}output = {folder} holds a run with figures of its own; choose another folder"
        )
    return folder


@contextmanager
def evaluation_loggers(
    config: EvaluationConfig, folder: Path, split: str, metrics: Mapping[str, float]
) -> Iterator[Sequence[Logger]]:
    """Loggers of an evaluation, which have been given its metrics and are closed afterwards."""
    loggers = build_loggers(config.logger, folder, "evaluation", plain(config))
    log_metrics(loggers, split, metrics)
    yield loggers
    finish(loggers)


def log_metrics(loggers: Sequence[Logger], split: str, metrics: Mapping[str, float], step: int = 0) -> None:
    """Logs each metric as `<split>/<name>`."""
    for logger in loggers:
        logger.log_metrics({f"{split}/{key}": value for key, value in metrics.items()}, step)
