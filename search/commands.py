"""Commands about a search, to be typed as they stand, and the keys that a user may have to change."""

import shlex
from collections.abc import Iterable
from pathlib import Path

from backbones.files import read_text
from backbones.words import printable
from celltransfer import program
from runtime.overrides import override
from search.messages import Failure

TOP = 25
"""Cells that are trained longer where the user says no number."""
CURES = {
    Failure.REJECTED: "limits",
    Failure.OUT_OF_MEMORY: "child.batch_size, child.filters",
    Failure.TIMEOUT: "child.timeout_seconds, child.epochs",
    Failure.NOT_FINITE: "child.lr, child.clip_norm",
    Failure.CRASH: "evaluator, child, data",
    Failure.INVALID: "evaluator, space",
    Failure.HOST_LOST: "executor",
}
"""Keys to look at when children fail in this way."""


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


def cures(kinds: Iterable[str | None]) -> str:
    """Keys to change where children failed in these ways: `limits; child.lr, child.clip_norm`."""
    return "; ".join(dict.fromkeys(CURES[Failure(kind)] for kind in kinds if kind))
