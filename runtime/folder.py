"""The folder of a run: what was asked for, with which versions, what was printed, what came out."""

import dataclasses
import hashlib
import importlib.metadata
import logging
import platform
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

from backbones.files import read_json, write_atomically, write_json
from celltransfer import command_line
from runtime.config import RENAMED

ALWAYS_FREE = ("run_dir", "logger")
"""Keys that may change when a run continues, in every stage."""
INPUT_SUFFIXES = (".json", ".safetensors")
RECORDED_PACKAGES = ("celltransfer", "torch", "torchvision", "lightning", "pycocotools", "numpy", "pillow")


class RunFolder:
    """A run's folder, open for writing. Started again with an equal configuration, a run continues in it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def open(cls, run_dir: str, config: Any, *, stage: str, may_change: Collection[str] = ()) -> "RunFolder":
        """Makes the folder and records configuration, versions, command; or checks that it is this run's.

        A stage calls it when all that it was given proved good, so that a refused run leaves nothing behind.
        config: the stage's root dataclass. may_change: dotted keys (with all below them) whose change does
        not make it another run; ALWAYS_FREE are added. A value that names a genotype or a weights file is
        compared by the file's content, wherever it lies. From here on the log goes to `log.txt`, too.
        Raises ValueError that shows the difference when the folder belongs to another configuration.
        """
        folder = cls(Path(run_dir))
        asked = plain(config)
        inputs = input_digests(asked, free=may_change)
        stored = folder.path / "config.yaml"
        if stored.exists():
            free = (*ALWAYS_FREE, *may_change, *inputs)
            changes = differences(_with_new_names(yaml.safe_load(stored.read_text()) or {}), asked, free)
            known = read_json(folder.path / "inputs.json", "inputs")
            changes += [f"{line} (content)" for line in differences(known, inputs)]
            if changes:
                raise ValueError(
                    f"{folder.path} holds a {stage} run with another configuration; continue it with the "
                    "same one, or choose another run_dir. Different are:\n  " + "\n  ".join(changes)
                )
        write_json(folder.path / "inputs.json", inputs)
        write_atomically(stored, yaml.safe_dump(asked, sort_keys=False))
        write_json(folder.path / "versions.json", versions())
        write_atomically(folder.path / "command.txt", command_line() + "\n")
        _log_to(folder.path / "log.txt")
        return folder

    def finished(self) -> dict[str, Any] | None:
        """The content of `metrics.json`, which a run writes last; None before."""
        path = self.path / "metrics.json"
        return read_json(path, "metrics") if path.exists() else None

    def finish(
        self,
        stage: str,
        split: str,
        metrics: Mapping[str, float],
        per_class: Mapping | None = None,
        **more: Any,
    ) -> dict[str, Any]:
        """Writes `metrics.json` and returns its content. Rates are in 0..1. more: further keys."""
        content = {
            "stage": stage,
            "split": split,
            "metrics": dict(metrics),
            "per_class": dict(per_class or {}),
            **more,
        }
        write_json(self.path / "metrics.json", content)
        return content


def plain(config: Any) -> Any:
    """Nested dataclasses as dictionaries and lists, as YAML gives them back."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {field.name: plain(getattr(config, field.name)) for field in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {str(key): plain(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [plain(value) for value in config]
    return config


def _with_new_names(config: dict[str, Any]) -> dict[str, Any]:
    """A stored configuration with today's names of its keys."""
    for old, new in RENAMED.items():
        (group, old_key), new_key = old.split("."), new.split(".")[1]
        if old_key in (section := config.get(group) or {}):
            section[new_key] = section.pop(old_key)
    return config


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
    """SHA-256 of every genotype and weights file that a plain configuration names outside the `free` keys."""
    if isinstance(config, dict) and prefix not in free:
        found: dict[str, str] = {}
        for key, value in config.items():
            found |= input_digests(value, free, f"{prefix}.{key}" if prefix else key)
        return found
    if isinstance(config, str) and config.endswith(INPUT_SUFFIXES) and Path(config).is_file():
        return {prefix: hashlib.sha256(Path(config).read_bytes()).hexdigest()}
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


def _log_to(path: Path) -> None:
    """Sends the log to `path` in place of the file of an earlier stage in the same process."""
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, logging.FileHandler)]:
        root.removeHandler(handler)
        handler.close()
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root.addHandler(handler)
