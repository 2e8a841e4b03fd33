"""The folder of a run: what was asked for, with which versions, what was printed, what came out."""

import dataclasses
import importlib.metadata
import logging
import os
import platform
import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import yaml

from backbones.files import convert_json, existing, json_text, read_json, write_atomically, write_json
from backbones.words import clipped, printable
from celltransfer import command_line
from runtime import digests
from runtime.config import ADDED, RENAMED
from runtime.owner import FILE as OWNER_FILE
from runtime.owner import owns
from runtime.yaml_files import read_mapping

log = logging.getLogger(__name__)

ALWAYS_FREE = ("run_dir", "logger")
"""Keys that may change when a run continues, in every stage."""
OUTPUT_SUFFIXES = (".out", ".err", ".log")
"""Of files that a shell or SLURM may have put into the folder before the run began."""
EVALUATION = "evaluation.yaml"
"""What an evaluation was asked for; not config.yaml, which marks the folder of a run that can go on."""
EVALUATION_FILES = (
    *(EVALUATION, "inputs.json", "versions.json", "command.txt", "metrics.csv"),
    *("predictions.json", "curves.json", "mistakes.json"),
)
"""What an evaluation may write besides `metrics.json`; its folder may hold anything else."""
INPUT_SUFFIXES = (".json", ".safetensors", ".ckpt")
RECORDED_PACKAGES = ("celltransfer", "torch", "torchvision", "lightning", "pycocotools", "numpy", "pillow")


FILES = {
    "config.yaml": "configuration",
    "inputs.json": "inputs",
    "versions.json": "versions",
    "command.txt": "command",
    "log.txt": "log",
    "metrics.json": "metrics",
    "metrics.csv": "metrics",
    digests.FILE: "digests",
}
"""What every run may write into its folder, and what each file is called in a message."""
DATA = "data"
"""Key of `inputs.json` for what tells the images and labels from others; else its keys are those of files."""


class _Figures(msgspec.Struct):
    """What every `metrics.json` of a run holds, as far as it is shown when the run is started again."""

    metrics: dict[str, float]
    steps: int = 0
    best: dict[str, float | None] | None = None


class RunFolder:
    """A run's folder, open for writing. Started again with an equal configuration, a run continues in it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def open(
        cls,
        run_dir: str,
        config: Any,
        *,
        stage: str,
        may_change: Collection[str] = (),
        data: Mapping[str, Any] | None = None,
    ) -> "RunFolder":
        """Makes the folder and records configuration, versions, command; or checks that it is this run's.

        A stage calls it when all that it was given proved good, so that a refused run leaves nothing
        behind, and while it owns the folder (`runtime.owner`). config: the stage's root dataclass.
        may_change: dotted keys (with all below them) whose change does not make it another run; ALWAYS_FREE
        are added. A value that names a genotype or a weights file is compared by the file's content,
        wherever it lies. data: what tells the images and labels from others, by split; they must be those
        that the run began with. From here on the log goes to `log.txt`, too. Raises ValueError that shows
        the difference when the folder belongs to another configuration, or names the file that is damaged,
        no regular file, or not a run's.
        """
        folder = cls(Path(run_dir))
        folder.check(config, stage=stage, may_change=may_change, data=data)
        folder.path.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder.path)
        digests.forget(folder.path)
        asked = plain(config)
        inputs = {**input_digests(asked, free=may_change), **({} if data is None else {DATA: data})}
        write_json(folder.path / "inputs.json", inputs)
        write_atomically(folder.path / "config.yaml", yaml.safe_dump(asked, sort_keys=False))
        write_json(folder.path / "versions.json", versions())
        write_atomically(folder.path / "command.txt", command_line() + "\n")
        folder.log(stage)
        return folder

    def check(
        self,
        config: Any,
        *,
        stage: str,
        may_change: Collection[str] = (),
        data: Mapping[str, Any] | None = None,
    ) -> None:
        """Raises what `open` raises. Writes nothing."""
        for name, what in FILES.items():
            if os.path.lexists(self.path / name):
                existing(self.path / name, what)
        if not (self.path / "config.yaml").exists():
            self._refuse_foreign(stage)
            return
        if changes := self.changes(config, stage=stage, may_change=may_change, data=data):
            raise ValueError(
                f"{self.path} holds a {stage} run with another configuration; continue it with the "
                "same one, or choose another run_dir. Different are:\n  " + "\n  ".join(changes)
            )

    def stored(self, config: Any) -> dict[str, Any]:
        """The configuration of the run that is here, with today's keys. config: of the stage."""
        return _with_new_keys(_stored_config(self.path / "config.yaml"), plain(config), _defaults(config))

    def changes(
        self,
        config: Any,
        *,
        stage: str,
        may_change: Collection[str] = (),
        data: Mapping[str, Any] | None = None,
    ) -> list[str]:
        """Lines `key: old -> new` of what `config` and `data` make another run than the one that is here.

        Arguments as of `open`, which refuses these. Raises ValueError for the folder of another command."""
        stored = self.path / "config.yaml"
        asked = plain(config)
        inputs = input_digests(asked, free=may_change)
        free = (*ALWAYS_FREE, *may_change, *inputs)
        known = self.stored(config)
        if (theirs := [key for key in known if key not in asked]) and asked.keys() - known:
            raise ValueError(
                f"{stored} is of another command: a {stage} run does not have the keys "
                f"{clipped(sorted(theirs))}; choose another run_dir"
            )
        changes = differences(known, asked, free)
        began_with = self._stored_inputs(inputs)
        before = began_with.pop(DATA, None)
        if asked.get("continues") and not Path(asked["continues"]).exists():  # which is no longer needed
            began_with.pop("continues", None)
        changes += [f"{line} (content)" for line in differences(began_with, inputs, may_change)]
        if data is not None and before is not None:  # runs of earlier versions do not have it
            changes += [f"{line} (images or labels)" for line in differences(before, data, prefix=DATA)]
        return changes

    def _refuse_foreign(self, stage: str) -> None:
        """A folder without config.yaml must hold nothing that a run could overwrite."""
        if not self.path.is_dir():
            return
        for path in sorted(self.path.iterdir()):
            # A run may have been killed between its first two files; a chain's folder holds its stages'.
            known = path.name in ("inputs.json", OWNER_FILE) or owns(path)
            if not (known or path.name.startswith(".") or path.suffix in OUTPUT_SUFFIXES):
                raise ValueError(
                    f"{self.path} holds {printable(path.name)}, but no config.yaml, so it is not the "
                    f"folder of a {stage} run; choose another run_dir, or restore config.yaml if it is"
                )

    def _stored_inputs(self, inputs: dict[str, str]) -> dict[str, Any]:
        path = self.path / "inputs.json"
        if not path.exists():
            log.warning("%s is missing: the input files are taken to be those that the run began with", path)
            return dict(inputs)
        try:
            known = read_json(path, "inputs")
            if not isinstance(known, dict):
                raise ValueError(f"{path}: expected keys and values, found {clipped(known)}")
        except ValueError as error:
            raise ValueError(
                f"{error}; restore it, or delete it if the input files are those that the run began with"
            ) from None
        return known

    def finished(self) -> dict[str, Any] | None:
        """The content of `metrics.json`, which a run writes last; None before it. Raises ValueError."""
        path = self.path / "metrics.json"
        if not os.path.lexists(path):
            return None
        content = read_json(path, "metrics")
        convert_json(content, _Figures, f"{path}: ")
        return content

    def finish(
        self,
        stage: str,
        split: str,
        metrics: Mapping[str, float],
        per_class: Mapping | None = None,
        **more: Any,
    ) -> dict[str, Any]:
        """Writes `metrics.json` and returns its content. Rates are in 0..1. more: further keys.

        To be called when the run writes nothing more: before it, the digests of all files are written."""
        content = {
            "stage": stage,
            "split": split,
            "metrics": dict(metrics),
            "per_class": dict(per_class or {}),
            **more,
        }
        digests.write_last(self.path, "metrics.json", json_text(content))
        return content

    def log_if_possible(self, stage: str) -> None:
        """Sends the log to `log.txt`, but for a folder that is only read."""
        with suppress(OSError):
            self.log(stage)

    def log(self, stage: str) -> None:
        """Sends the log to `log.txt`, in place of that of a stage that ran before in the same process.

        The log of a folder around it, which is a chain's, goes on."""
        root, path = logging.getLogger(), self.path / "log.txt"
        open_files = {Path(handler.baseFilename): handler for handler in log_files()}
        for file, handler in open_files.items():
            if file.parent != path.parent.absolute() and file.parent not in path.absolute().parents:
                root.removeHandler(handler)
                handler.close()
        if path.absolute() not in open_files:
            handler = logging.FileHandler(path)
            handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
            root.addHandler(handler)
            # What the terminal was told before there was a log.
            first = log.makeRecord(log.name, logging.INFO, __file__, 0, f"{stage}: {self.path}", (), None)
            handler.handle(first)


def log_files() -> list[logging.FileHandler]:
    """The open logs of run folders."""
    return [handler for handler in logging.getLogger().handlers if type(handler) is logging.FileHandler]


def log_only(message: str, level: int = logging.INFO) -> None:
    """Writes to the logs of run folders what is printed elsewhere."""
    for handler in log_files():
        handler.handle(log.makeRecord(log.name, level, __file__, 0, message, (), None))


def remove_leftovers(folder: Path) -> None:
    """Removes what `write_atomically` left in a folder when the process was killed."""
    for path in folder.iterdir():
        if re.fullmatch(r"\..+\.[0-9a-f]{12}", path.name) and path.is_file():
            path.unlink()


def _stored_config(path: Path) -> dict[str, Any]:
    advice = "restore it from a copy, or choose another run_dir"
    try:
        return dict(read_mapping(path, "configuration"))
    except ValueError as error:
        raise ValueError(f"{error}; {advice}") from None


def record_evaluation(folder: Path, config: Any) -> None:
    """Writes what an evaluation was asked for, its command line and versions, and what it began with.

    config: its root dataclass. A report reads them. The digests of an evaluation before go."""
    digests.forget(folder)
    asked = plain(config)
    write_atomically(folder / EVALUATION, yaml.safe_dump(asked, sort_keys=False))
    write_json(folder / "inputs.json", input_digests(asked))
    write_json(folder / "versions.json", versions())
    write_atomically(folder / "command.txt", command_line() + "\n")


def finish_evaluation(folder: Path, content: Mapping[str, Any]) -> None:
    """Writes `metrics.json` and, before it, the digests of the evaluation's files; to be called last."""
    digests.write_last(folder, "metrics.json", json_text(content), EVALUATION_FILES)


def plain(config: Any) -> Any:
    """Nested dataclasses as dictionaries and lists, as YAML gives them back."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {field.name: plain(getattr(config, field.name)) for field in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {str(key): plain(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [plain(value) for value in config]
    return config


def _with_new_keys(config: dict[str, Any], asked: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """A stored configuration with today's names of its keys, and with those that it lacks.

    A key that came later does by default what was done without it; ADDED names those of which the default is
    another one."""
    for key, value in ADDED.items():
        group, _, name = key.rpartition(".")
        section = config.get(group) if group else config
        if isinstance(section, dict) and name in ((asked.get(group) if group else asked) or {}):
            section.setdefault(name, value)
    _fill(config, defaults)
    for old, new in RENAMED.items():
        (group, old_key), new_key = old.split("."), new.split(".")[1]
        section = config.get(group)
        if isinstance(section, dict) and old_key in section:
            section[new_key] = section.pop(old_key)
    return config


def _defaults(config: Any) -> dict[str, Any]:
    """The defaults of a dataclass and of those in its fields, as plain values; nothing of a field without."""
    found: dict[str, Any] = {}
    for each in dataclasses.fields(config) if dataclasses.is_dataclass(config) else ():
        value = getattr(config, each.name)
        if dataclasses.is_dataclass(value):
            found[each.name] = _defaults(value)
        elif each.default is not dataclasses.MISSING:
            found[each.name] = plain(each.default)
        elif each.default_factory is not dataclasses.MISSING:
            found[each.name] = plain(each.default_factory())
    return found


def _fill(config: dict[str, Any], defaults: Mapping[str, Any]) -> None:
    """Adds to the sections that are there what they lack."""
    for key, value in defaults.items():
        if isinstance(section := config.get(key), dict) and isinstance(value, Mapping):
            _fill(section, value)
        elif key not in config and not isinstance(value, Mapping):
            config[key] = value


def differences(old: Any, new: Any, free: Collection[str] = (), prefix: str = "") -> list[str]:
    """Lines `key: old -> new` for every leaf that differs outside the `free` keys."""
    if prefix in free:
        return []
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            line
            for key in sorted({*old, *new})
            for line in differences(
                old.get(key, "(absent)"),
                new.get(key, "(absent)"),
                free,
                f"{prefix}.{key}" if prefix else key,
            )
        ]
    return [] if old == new else [f"{prefix}: {old} -> {new}"]


def input_digests(config: Any, free: Collection[str] = (), prefix: str = "") -> dict[str, str]:
    """SHA-256 of every genotype, weights file and checkpoint that a plain configuration names outside the
    `free` keys."""
    if prefix in free:
        return {}
    if isinstance(config, dict):
        found: dict[str, str] = {}
        for key, value in config.items():
            found |= input_digests(value, free, f"{prefix}.{key}" if prefix else key)
        return found
    if isinstance(config, str) and config.endswith(INPUT_SUFFIXES) and Path(config).is_file():
        return {prefix: digests.digest(Path(config))}
    return {}


def versions() -> dict[str, str]:
    """Python's and the recorded packages' versions."""
    found = {"python": platform.python_version()}
    for package in RECORDED_PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found
