"""Commands about a search, to be typed as they stand, and the keys that a user may have to change."""

import json
import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from backbones.files import read_text
from backbones.words import printable
from celltransfer import program
from runtime.overrides import override
from search.config import REFERENCES
from search.messages import Failure
from search.stored import with_references

TOP = 25
"""Cells that are trained longer where the user says no number."""
CURES = {
    Failure.REJECTED: ("limits",),
    Failure.OUT_OF_MEMORY: ("evaluator", "child.batch_size", "child.filters", "executor.memory_gb"),
    Failure.TIMEOUT: ("evaluator", "child.timeout_seconds", "child.epochs", "executor.timeout_seconds"),
    Failure.NOT_FINITE: ("evaluator", "child.lr", "child.clip_norm"),
    Failure.CRASH: ("evaluator", "child", "data"),
    Failure.INVALID: ("evaluator", "space"),
    Failure.HOST_LOST: ("executor",),
}
"""Keys to look at when children fail in this way, as far as the search has them."""


def about(command: str, *folders: Path) -> str:
    """A command that takes folders."""
    return " ".join([program(command), *(shlex.quote(str(folder)) for folder in folders)])


def rerank(folder: Path) -> str:
    """Trains the best cells of the search in a folder longer."""
    return f"{program('search.rerank')} {override('dir', folder)} {override('top', TOP)}"


def again(folder: Path, **budget: float) -> str:
    """The command that continues the search in a folder, with its run_dir; empty where it is unknown.

    budget: keys of the group `budget` with their new values; left out where the command has none, as that of
    a rerank. A sweep's command, of which this search is one job, is given as it was typed."""
    try:
        command = read_text(folder / "command.txt", "command").strip()
        words = shlex.split(command)
    except (OSError, ValueError):
        return ""
    name, rest = _command_of(words)
    if not name.startswith(("search", "pipeline")) or {"-m", "--multirun"} & {*rest}:
        return printable(command)
    added: dict[str, object] = {}
    if not any(word.startswith("run_dir=") for word in rest):
        added["run_dir"] = folder if name == "search" else folder.parent
    if name in ("search", "pipeline"):
        prefix = "" if name == "search" else "search."
        added |= {f"{prefix}budget.{key}": value for key, value in budget.items()}
    kept = [word for word in words if word.partition("=")[0] not in added]
    return printable(" ".join([shlex.join(kept), *(override(*each) for each in added.items())]))


def _command_of(words: list[str]) -> tuple[str, list[str]]:
    """Name and words of `python -m NAME …` or `celltransfer NAME …`; an empty name for another command."""
    for start in ("-m", "celltransfer"):
        if start in words[:-1]:
            place = words.index(start) + 1
            return words[place], words[place + 1 :]
    return "", []


def cures(kinds: Iterable[str | None], config: Mapping[str, Any]) -> str:
    """Keys to change where children failed in these ways: `limits; child.lr, child.clip_norm`.

    config: of the search, as plain values. Keys that nothing of it reads are left out: an evaluator of the
    user's own reads of `child` and `data` what its references name."""
    told = (", ".join(key for key in CURES[Failure(kind)] if _reads(config, key)) for kind in kinds if kind)
    return "; ".join(dict.fromkeys(keys for keys in told if keys))


def _reads(config: Mapping[str, Any], key: str) -> bool:
    group, _, name = key.partition(".")
    evaluator = with_references(config.get("evaluator"), config)
    if group == "evaluator":
        return evaluator is not None
    if group == "executor" and name:
        return (config.get(group) or {}).get(name) is not None
    if evaluator is None or group not in REFERENCES["evaluator"]:
        return True
    named = re.findall(r"\$\{([\w.]+)\}", json.dumps(evaluator))
    return any(f"{key}.".startswith(f"{each}.") or f"{each}.".startswith(f"{key}.") for each in named)
