"""What the training and the evaluation of every network begin and end with."""

import logging
import os
import random
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import Logger

from backbones.files import existing, read_json, real_path
from backbones.ranges import KEY, ConfigError, writable_folder
from backbones.words import clipped
from celltransfer import program
from runtime.checkpoints import remove_previous
from runtime.config import EvaluationConfig
from runtime.folder import RunFolder, plain
from runtime.growth import Rules, check_finished, longer
from runtime.launch import launched_rank
from runtime.owner import owned, owns
from runtime.random import counter_hash
from runtime.resume import CHECKPOINTS, LAST, PREVIOUS
from runtime.tracking import build_loggers, finish, log_artifact, log_summary

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stage:
    """A stage of the chain. name: in files and figures. may_change: keys that may change when a run is
    resumed. products: files that a finished run leaves, the first one for the next stage. length: keys in
    which a longer run may differ from the finished one that it continues. sources: files in the run's folder
    from each of which products and figures can be made again. report: the command that shows a run. config,
    below: the stage's root dataclass."""

    name: str
    may_change: tuple[str, ...]
    products: tuple[str, ...]
    length: tuple[str, ...] = ()
    sources: tuple[str, ...] = (f"{CHECKPOINTS}/{LAST}", f"{CHECKPOINTS}/{PREVIOUS}")
    report: str = "pipeline.report"

    def meant(self, config: Any) -> Any:
        """The configuration of the run that `config` means: itself, or of a longer one than a finished run in
        its folder (`runtime.growth`). A chain's stages never become longer: the next one began with them."""
        if owns(real_path(Path(config.run_dir)).parent):
            return config
        finished = self.is_finished(Path(config.run_dir))
        return longer(config, finished, self._rules())

    def _rules(self) -> Rules:
        return Rules(self.name, self.may_change, self.length)

    def run(self, config: Any, train: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """What `train(config)` returns, or what a finished run's `metrics.json` holds.

        `train` owns the run's folder. Of several processes the first one returns that, the others return
        nothing. Raises FolderInUseError where another process runs in the folder.
        """
        done = self.finished(config)  # which needs no owner: nothing is written
        if done is None:
            with owned(config.run_dir):
                done = self.finished(config) or train(config)
        return {} if launched_rank() else done

    def finished(self, config: Any, *, quiet: bool = False) -> dict[str, Any] | None:
        """What a finished run's `metrics.json` holds, once its figures and files were shown; None before.

        quiet: nothing is shown.

        A run is finished when its products are there, too: without them it has to go on.
        Raises ValueError for the folder of another run, or where products can only be made by a new run."""
        folder = RunFolder(Path(config.run_dir))
        if not self.is_finished(folder.path):
            return None
        if not launched_rank():
            folder.check(config, stage=self.name, may_change=self.may_change)
        content = self._figures(folder)
        if content is not None and not quiet and not launched_rank():
            folder.log_if_possible(self.name)
            log.info("%s: was finished before", self.name)
            self.show(folder, content)
        return content

    def _figures(self, folder: RunFolder) -> dict[str, Any] | None:
        try:
            return folder.finished()
        except ValueError as error:
            left = self._source(folder.path)
            advice = f"and start the same command again, which makes it again from {left}"
            if left is None:
                advice = f"to start from the beginning: {self.sources[0]}, which it was made from, is gone"
            raise ValueError(f"{error}; restore it, or delete it {advice}") from None

    def _source(self, folder: Path) -> str | None:
        return next((name for name in self.sources if (folder / name).exists()), None)

    def is_finished(self, folder: Path) -> bool:
        """Whether the folder holds figures and products.

        Raises ValueError where products are gone with what they were made from, or the figures are of
        another stage."""
        if not os.path.lexists(folder / "metrics.json"):
            return False
        if (found := _stage_of(folder / "metrics.json")) not in (None, self.name):
            raise ValueError(
                f"{folder} holds a finished {clipped(found)[1:-1]} run, expected a {self.name} run; "
                "choose another run_dir"
            )
        gone = self._gone(folder)
        if not gone or not (folder / "config.yaml").exists():
            return True
        if self._source(folder) is None:
            raise ValueError(
                f"{folder} holds a finished {self.name} run whose {gone[0]} is gone, and "
                f"{self.sources[0]}, from "
                "which it could be made again, is gone, too; restore one of them, delete metrics.json to "
                "start from the beginning, or choose another run_dir"
            )
        return False

    def _gone(self, folder: Path) -> list[str]:
        """Products that are not there, or empty. Raises ValueError where one is no regular file."""
        return [name for name in self.products if not _filled(folder / name)]

    def tell_what_is_lost(self, folder: Path) -> None:
        """Logs that a finished run goes on because a product is gone."""
        gone = self._gone(folder)
        if gone and (folder / "metrics.json").exists():
            log.warning("%s is gone and is made again from %s", folder / gone[0], self._source(folder))

    def open(self, config: Any, trainer: L.Trainer, data: Mapping[str, Any] | None = None) -> RunFolder:
        """The run's folder; the first process makes it and gives the trainer its loggers.

        data: digests of the images and labels.
        To be called when all that could be refused has been built: it is the first that writes."""
        if trainer.global_rank:
            return RunFolder(Path(config.run_dir))
        begun = (Path(config.run_dir) / CHECKPOINTS / LAST).exists()
        if self.length and config.continues is not None and not begun:
            check_finished(config, trainer, self._rules(), data)
        folder = RunFolder.open(
            config.run_dir, config, stage=self.name, may_change=self.may_change, data=data
        )
        self.tell_what_is_lost(folder.path)
        trainer.loggers = build_loggers(config.logger, folder.path, self.name, plain(config), data)
        return folder

    def finish(
        self,
        folder: RunFolder,
        loggers: Sequence[Logger],
        split: str,
        metrics: Mapping[str, float],
        per_class: Mapping[str, Any],
        **more: Any,
    ) -> dict[str, Any]:
        """Closes the loggers, writes `metrics.json`, shows its figures and returns them.

        more: further keys of `metrics.json`."""
        product = folder.path / self.products[0]
        log_artifact(loggers, product, product.stem)
        log_summary(loggers, {**metrics, "steps": more.get("steps")})
        finish(loggers)
        content = folder.finish(self.name, split, metrics, per_class, **more)
        remove_previous(folder.path / CHECKPOINTS)
        self.show(folder, content)
        return content

    def show(self, folder: RunFolder, content: Mapping[str, Any]) -> None:
        """Logs the figures of a finished run, where its files are, and the command for its report."""
        known = {
            key: value for key, value in content["metrics"].items() if key not in content.get("undefined", [])
        }
        figures = "  ".join(f"{key} {value:.4g}" for key, value in known.items()) or "no figure is defined"
        step = f" after step {content['steps']}" if "steps" in content else ""
        log.info("%s: finished%s: %s", self.name, step, figures)
        best = {key: value for key, value in (content.get("best") or {}).items() if value is not None}
        at = best.pop("step", None)
        if best and at is not None:
            log.info("best %s at step %d", "  ".join(f"{key} {value:.4g}" for key, value in best.items()), at)
        if "best_child" in content:
            log.info("best reward %.4g: child %d", content["metrics"]["best_reward"], content["best_child"])
        for name in (*self.products, "metrics.json"):
            log.info("%s", folder.path / name)
        if not owns(real_path(folder.path).parent):  # a chain, which writes one report of all its stages
            log.info("report: %s", program(shlex.join([self.report, str(folder.path)])))


def _filled(path: Path) -> bool:
    return os.path.lexists(path) and existing(path, "product").stat().st_size > 0


def seed_process(seed: int, rank: int) -> None:
    """Seeds the generators of Python, NumPy and PyTorch.

    Use rank 0 in all processes while weights are initialised, and then each process's own rank: dropout and
    drop path differ between processes."""
    own = int(counter_hash(seed, rank)[0] >> np.uint64(1)) if rank else seed
    random.seed(own)
    np.random.seed(own % 2**32)
    torch.manual_seed(own)


@contextmanager
def evaluation_folder(config: EvaluationConfig, stage: str) -> Iterator[Path | None]:
    """Sets PyTorch's threads, and gives the folder to write to, which is owned meanwhile.

    Raises ConfigError if that is the folder of a training run, holds another stage's figures or cannot be
    written to, FolderInUseError if another process writes to it."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    if config.output is None:
        yield None
        return
    folder = writable_folder(config.output, "output")
    if os.path.lexists(folder / "config.yaml"):
        raise ConfigError(
            f"{KEY}output = {folder} holds a run with figures of its own; choose another folder"
        )
    if os.path.lexists(folder / "metrics.json") and _stage_of(folder / "metrics.json") != stage:
        raise ConfigError(
            f"{KEY}output = {folder} holds a metrics.json that is not of a {stage} evaluation; choose "
            "another folder"
        )
    with owned(folder):
        yield folder


def _stage_of(metrics: Path) -> str | None:
    """The stage that a `metrics.json` names; None where it names none."""
    try:
        content = read_json(metrics, "metrics")
    except ValueError:
        return None
    stage = content.get("stage") if isinstance(content, dict) else None
    return stage if isinstance(stage, str) else None


@contextmanager
def evaluation_loggers(
    config: EvaluationConfig, folder: Path, split: str, metrics: Mapping[str, float]
) -> Iterator[Sequence[Logger]]:
    """Loggers of an evaluation, which have been given its metrics and are closed afterwards."""
    loggers = build_loggers(config.logger, folder, "evaluation", plain(config))
    log_metrics(loggers, split, metrics)
    log_summary(loggers, metrics)
    yield loggers
    finish(loggers)


def log_metrics(loggers: Sequence[Logger], split: str, metrics: Mapping[str, float], step: int = 0) -> None:
    """Logs each metric as `<split>/<name>`."""
    for logger in loggers:
        logger.log_metrics({f"{split}/{key}": value for key, value in metrics.items()}, step)
