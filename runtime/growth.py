"""A finished run that is made longer: a new run, in a folder of its own, from the finished one's last state.

The finished run's folder stays as it is. The new run has all of its configuration but what says how long
training lasts, and the rate of each of its steps is that of a run of the new length.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from torch.optim.lr_scheduler import LambdaLR

from backbones.files import real_path
from backbones.ranges import KEY, ConfigError
from backbones.words import counted
from runtime.checkpoints import damage
from runtime.folder import RunFolder, plain
from runtime.resume import CHECKPOINTS, LAST

log = logging.getLogger(__name__)

MEASURES = {"recipe.steps": "step", "recipe.epochs": "epoch"}
"""Keys that say how long a run is: their unit."""


class Rules(NamedTuple):
    """Of a stage. may_change: keys that may change when a run continues. length: those in which a longer run
    may differ from the finished one."""

    stage: str
    may_change: tuple[str, ...]
    length: tuple[str, ...]


def longer(config: Any, finished: bool, rules: Rules) -> Any:
    """The configuration of the run that `config` means: itself, or of a new one from a finished one.

    It is a new one where `run_dir` holds a finished run that differs in its length only and is shorter;
    its folder lies beside and is named for its length, so that the same command continues it. The folder of
    such a run may be named as well. config: a stage's root dataclass, with a key `continues`. finished: the
    run in `run_dir`."""
    folder = RunFolder(Path(config.run_dir))
    if config.continues is not None:
        return replace(config, continues=str(checkpoint_of(Path(config.continues))))
    if not (folder.path / "config.yaml").exists():
        return config
    known = folder.stored(config)
    config = replace(config, continues=known.get("continues"))
    if not finished:
        return config
    changed = {
        line.partition(": ")[0]
        for line in folder.changes(config, stage=rules.stage, may_change=rules.may_change)
    }
    asked = plain(config)
    measure = next((key for key in MEASURES if key in changed and _value(asked, key) is not None), None)
    if measure is None or not changed <= {*rules.length}:
        return config
    new, old = _value(asked, measure), _value(known, measure)
    if old is not None and new <= old:
        return config
    place = folder.path.with_name(f"{folder.path.name}-{new}-{MEASURES[measure]}s")
    log.info(
        "%s is finished and stays as it is; a new run goes on from its last state to %s %d: %s",
        *(folder.path, MEASURES[measure], new, place),
    )
    return replace(config, run_dir=str(place), continues=str(folder.path / CHECKPOINTS / LAST))


def checkpoint_of(path: Path) -> Path:
    """The last checkpoint of a run, by its folder or by itself."""
    return path / CHECKPOINTS / LAST if path.is_dir() else path


def run_of(checkpoint: Path) -> Path:
    """The folder of the run that a checkpoint is of."""
    return checkpoint.parent.parent


def check_finished(config: Any, trainer: L.Trainer, rules: Rules, data: Mapping[str, Any] | None) -> None:
    """Raises ValueError unless `config.continues` is the checkpoint of a finished run that can be longer.

    trainer: of the new run. data: digests of the images and labels, which must be the same."""
    checkpoint = Path(config.continues)
    old = RunFolder(run_of(checkpoint))
    if not (old.path / "config.yaml").exists() or not (old.path / "metrics.json").exists():
        raise ConfigError(
            f"{KEY}continues = {config.continues} is not the folder of a finished {rules.stage} run; an "
            "unfinished one goes on with its own run_dir"
        )
    free = (*rules.may_change, *rules.length, "continues")
    if changes := old.changes(config, stage=rules.stage, may_change=free, data=data):
        raise ValueError(
            f"{old.path} can be continued with another length only; to train on other images or by another "
            "recipe start from its weights: init=FILE. Different are:\n  " + "\n  ".join(changes)
        )
    if fault := damage(checkpoint):
        raise ValueError(f"{fault}; without it the run cannot go on: start from its weights, init=FILE")
    state = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    steps, epochs = state["global_step"], state["epoch"] + 1
    for done, most, unit in ((steps, trainer.max_steps, "step"), (epochs, trainer.max_epochs or -1, "epoch")):
        if 0 <= most <= done:
            raise ConfigError(
                f"{old.path} is finished after {counted(done, unit)}; set {KEY}recipe.{unit}s above that"
            )


class OwnCourse(L.Callback):
    """Lets a run that begins with another run's checkpoint have its own rates and its own best figures.

    A checkpoint brings the rate of the shorter schedule, which would hold for one step; it is the schedule's
    own at every other start. folder: of the run's own checkpoints."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_load_checkpoint(
        self, trainer: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if real_path(Path(str(trainer.ckpt_path)).parent) == real_path(self.folder):
            return
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if getattr(callback, "of_one_run", False):
                checkpoint["callbacks"].pop(callback.state_key, None)

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        for each in trainer.lr_scheduler_configs:
            schedule = each.scheduler
            if isinstance(schedule, LambdaLR):
                rates = zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
                for group, (base, factor) in zip(schedule.optimizer.param_groups, rates, strict=True):
                    group["lr"] = base * factor(schedule.last_epoch)


def _value(config: Mapping[str, Any], key: str) -> Any:
    group, name = key.split(".")
    return config.get(group, {}).get(name)
