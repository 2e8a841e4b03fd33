"""What a check of a data set finds: broken rules, each with a count and its first offenders."""

import argparse
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from backbones.arguments import whole
from backbones.words import printable
from runtime.config import MOST_PROCESSES

MISSING = "image file is missing"
"""The rule that every listed file is there."""
SHOWN = 5
"""Offenders that are named of each rule, the first ones."""


@dataclass
class Problem:
    """A broken rule. count: how often; names: the first files, folders or pairs of files that break it.

    where: the file or folder that holds them."""

    rule: str
    count: int = 0
    names: list[str] = field(default_factory=list)
    level: str = "error"
    where: str = ""

    def __str__(self) -> str:
        shown = ", ".join(self.names) + (", ..." if self.count > len(self.names) else "")
        place = f"{self.where}: " if self.where else ""
        return printable(f"{self.level}: {place}{self.rule}: {self.count} ({shown})")

    def lines(self) -> list[str]:
        """The same with a line for each offender."""
        more = self.count - len(self.names)
        place = f"{self.where}: " if self.where else ""
        head = f"{self.level}: {place}{self.rule}: {self.count}"
        return [
            head,
            *(f"    {printable(name)}" for name in self.names),
            *([f"    and {more} more"] if more else []),
        ]


def note(
    problems: list[Problem], rule: str, name: str, level: str = "error", where: str = "", shown: int = SHOWN
) -> None:
    """Adds an offender to the problem of its rule, which is appended where there is none."""
    found = next((problem for problem in problems if (problem.rule, problem.where) == (rule, where)), None)
    if found is None:
        problems.append(found := Problem(rule, level=level, where=where))
    found.count += 1
    if len(found.names) < shown:
        found.names.append(name)


def refuse(problems: Iterable[Problem]) -> None:
    """Raises ValueError with a line for each problem that is an error.

    Raises FileNotFoundError instead where files are missing and nothing else is wrong."""
    if errors := [problem for problem in problems if problem.level == "error"]:
        missing = all(problem.rule == MISSING for problem in errors)
        text = "\n".join(str(problem).removeprefix("error: ") for problem in errors)
        raise FileNotFoundError(text) if missing else ValueError(text)


@dataclass
class Report:
    """What the folders hold and which rules they break. kinds: images by format and colours. taken: which of
    the folders are used, in words, where there is a choice."""

    folder: str
    counts: dict[str, int] = field(default_factory=dict)
    kinds: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    names: int = SHOWN
    taken: str = ""

    def add(self, rule: str, name: str, level: str = "error", where: str = "") -> None:
        note(self.problems, rule, name, level, where, self.names)


def parse_check(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """The arguments of a command that checks data, with the options that all such commands have."""
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    parser.add_argument(
        "--names", type=whole(1), default=SHOWN, help=f"shown of each problem; default: {SHOWN}"
    )
    parser.add_argument(
        "--workers",
        type=whole(0, MOST_PROCESSES),
        default=os.cpu_count(),
        help="processes; 0: this one; default: one per core",
    )
    return parser.parse_args(arguments)
