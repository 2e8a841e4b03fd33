"""Checkpoint files: written beside their target, checked before they are read, the one before kept."""

import logging
import os
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from torch import nn

from backbones.files import existing
from runtime.resume import LAST, PREVIOUS

log = logging.getLogger(__name__)


class BesideTarget(TorchCheckpointIO):
    """Lightning's, which would write to $TMPDIR first, often a small disk in memory, and name no file in
    errors.

    What was `last.ckpt` becomes `previous.ckpt`, unless it is damaged: then `previous.ckpt` stays."""

    def __init__(self) -> None:
        super().__init__()
        self._whole: set[Path] = set()

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Writes under a temporary name, syncs, renames. Raises OSError that names the file."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary(path)
        temporary.unlink(missing_ok=True)  # of a process that was killed here
        try:
            with _named(path), temporary.open("xb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            if path.exists() and (path in self._whole or damage(path) is None):
                _replace_by_link(path, path.with_name(PREVIOUS))
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        self._whole.add(path)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")  # one name: what a kill left is overwritten


def _replace_by_link(path: Path, other: Path) -> None:
    """Gives the file a second name, so that it keeps the first one, too; copies nothing."""
    link = _temporary(other)
    link.unlink(missing_ok=True)
    try:
        os.link(path, link)
    except OSError:  # a file system without links: the one before goes on
        return
    link.replace(other)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Errors in the block are OSErrors that name the file."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    except RuntimeError as error:  # PyTorch's writer, which hides that of the file
        cause = error.__context__ or error.__cause__
        if isinstance(cause, OSError):
            raise OSError(cause.errno, cause.strerror, str(path)) from None
        raise OSError(f"{path}: the checkpoint could not be written: {str(error).splitlines()[0]}") from None


def usable_checkpoint(folder: Path, module: nn.Module | None = None) -> Path | None:
    """`last.ckpt`, or `previous.ckpt` where that is damaged, which is logged; None where there is neither.

    module: what goes on from it; a checkpoint of another network counts as damaged.
    Raises ValueError where those that are there are all damaged, or no regular files. Nothing is removed."""
    faults: list[str] = []
    for name in (LAST, PREVIOUS):
        path = folder / name
        if not os.path.lexists(path):
            continue
        fault = damage(path, module)
        if fault is None:
            if faults:
                log.warning("%s; continuing from %s", faults[0], path)
            elif name == PREVIOUS:
                log.warning("%s is missing; continuing from %s", folder / LAST, path)
            return path
        faults.append(fault)
    if faults:
        raise ValueError(
            f"{'; '.join(faults)}. There is no other checkpoint: restore one from a copy, or delete "
            f"{folder} to train from the beginning"
        )
    return None


def damage(path: Path, module: nn.Module | None = None) -> str | None:
    """What is wrong with a checkpoint file; None where it can be continued from. Its tensors stay on disk.

    module: as in `usable_checkpoint`."""
    try:
        existing(path, "checkpoint")
        with zipfile.ZipFile(path) as archive:  # PyTorch itself does not compare the checksums
            spoiled = archive.testzip()
        if spoiled is not None:
            return f"{path}: damaged: the checksum of {spoiled} is wrong"
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (ValueError, FileNotFoundError) as error:
        return str(error) if str(path) in str(error) else f"{path}: damaged: {error}"
    except (zipfile.BadZipFile, RuntimeError, EOFError, KeyError, IndexError, NotImplementedError) as error:
        return f"{path}: damaged: {_first_line(error)}"
    except pickle.UnpicklingError as error:
        return f"{path}: not a checkpoint of this project: {_first_line(error)}"
    if not (isinstance(content, dict) and "global_step" in content and all(map(content.get, _FILLED))):
        return f"{path}: not a checkpoint of a training run"
    if module is not None and (name := _first_difference(content["state_dict"], module.state_dict())):
        return f"{path}: not a checkpoint of this network: {name} is missing or of another shape"
    return None


_FILLED = ("state_dict", "loops", "optimizer_states")
"""Keys of a checkpoint that are never empty."""


def _first_difference(given: Mapping[str, Any], expected: Mapping[str, Any]) -> str | None:
    """The first name that one of them lacks, or whose tensors have other shapes."""
    for name in dict.fromkeys([*expected, *given]):
        here, there = (getattr(state.get(name), "shape", None) for state in (given, expected))
        if here != there:
            return name
    return None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def remove_previous(folder: Path) -> None:
    """Frees the space of `previous.ckpt` when the run is finished and `last.ckpt` is there."""
    if (folder / LAST).exists():
        with suppress(OSError):
            (folder / PREVIOUS).unlink(missing_ok=True)
