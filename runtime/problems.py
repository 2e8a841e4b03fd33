"""What a check of a data set finds: broken rules, each with a count and its first offenders."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from backbones.files import printable


@dataclass
class Problem:
    """A broken rule. count: how often; names: the first files, folders or pairs of files that break it."""

    rule: str
    count: int = 0
    names: list[str] = field(default_factory=list)
    level: str = "error"

    def __str__(self) -> str:
        shown = ", ".join(self.names) + (", ..." if self.count > len(self.names) else "")
        return printable(f"{self.level}: {self.rule}: {self.count} ({shown})")


@dataclass
class Report:
    """What the folders hold and which rules they break. kinds: images by format and colours."""

    folder: str
    counts: dict[str, int] = field(default_factory=dict)
    kinds: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    names: int = 5

    def add(self, rule: str, name: str, level: str = "error") -> None:
        found = next((problem for problem in self.problems if problem.rule == rule), None)
        if found is None:
            self.problems.append(found := Problem(rule, level=level))
        found.count += 1
        if len(found.names) < self.names:
            found.names.append(name)


def parse_check(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """The arguments of a command that checks data, with the options that all such commands have."""
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    parser.add_argument("--names", type=int, default=5, help="shown of each problem; default: 5")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count(), help="processes; 0: this one; default: one per core"
    )
    options = parser.parse_args(arguments)
    if options.names < 1 or options.workers < 0:
        parser.error("--names must be at least 1, --workers at least 0")
    return options
