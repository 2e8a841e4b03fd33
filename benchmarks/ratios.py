"""Ratios of two or more ways in one process: rounds interleaved, quartiles, verdicts, a table in Markdown.

A verdict is `met` only where the worse quartile of the ratio passes the goal too, `level` where the goal lies
between the quartiles, else `missed`.
"""

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from backbones import processor
from backbones.arguments import whole
from backbones.timing import quartiles

COLUMNS = ("work", "way", "peer", "ours", "ratio", "quartiles", "goal")
PACKAGES = ("torch", "torchvision", "timm", "pretrainedmodels", "onnxruntime", "openvino")


@dataclass(frozen=True)
class Row:
    """A line of the table.

    quartiles: lower, median and upper, over rounds. For times the peer's through ours, more is better; where
    less is true, ours through the peer's, less is better.
    """

    work: str
    way: str
    peer: str
    own: str
    quartiles: tuple[float, float, float]
    goal: float | None = None
    less: bool = False

    @property
    def verdict(self) -> str:
        """Empty where there is no goal."""
        if self.goal is None:
            return ""
        sign = -1 if self.less else 1
        worse, better = sorted(sign * ratio for ratio in (self.quartiles[0], self.quartiles[2]))
        return "met" if worse >= sign * self.goal else "level" if better >= sign * self.goal else "missed"

    def cells(self) -> tuple[str, ...]:
        lower, median, upper = self.quartiles
        goal = "" if self.goal is None else f"{'≤' if self.less else '≥'} {self.goal:g} {self.verdict}"
        spread = f"{lower:.2f} to {upper:.2f}"
        return self.work, self.way, self.peer, self.own, f"{median:.2f}", spread, goal


def milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.1f} ms"


def mebibytes(size: float) -> str:
    return f"{size / 2**20:.1f} MiB"


def compare(
    work: str,
    samples: Mapping[str, Sequence[float]],
    goals: Mapping[tuple[str, str], float],
    show: Callable[[float], str] = milliseconds,
    less: bool = False,
) -> Iterator[Row]:
    """Rows of all ways but the first, which is the peer.

    samples: by way, one of each round. goals: by work and way. show: a sample, or the median, as text.
    """
    (_, peer), *ways = samples.items()
    for way, own in ways:
        ratios = [b / a if less else a / b for a, b in zip(peer, own, strict=True)]
        lower, median, upper = quartiles(ratios)
        medians = show(statistics.median(peer)), show(statistics.median(own))
        yield Row(work, way, *medians, (lower, median, upper), goals.get((work, way)), less)


def markdown(rows: Iterable[Row]) -> str:
    lines = [COLUMNS, ("---",) * len(COLUMNS), *(row.cells() for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def parser(description: str, rounds: int) -> argparse.ArgumentParser:
    """The options that every benchmark has. rounds: the default."""
    result = argparse.ArgumentParser(description=description.split("\n\n")[0])
    result.add_argument("--threads", type=whole(1), default=2, help="of PyTorch and other runtimes")
    result.add_argument("--rounds", type=whole(1), default=rounds, help=f"that count, default {rounds}")
    result.add_argument("--markdown", type=Path, metavar="FILE", help="write the machine and the table there")
    return result


def report(sections: Iterable[Callable[[], Iterator[Row]]], args: argparse.Namespace, device: str) -> None:
    """Runs the sections, rows to stderr as they come, and prints the table. args: those of `parser`.

    device: its name, as the table's heading says it.
    """
    if args.rounds < 1 or args.threads < 1:
        sys.exit(f"--rounds {args.rounds} --threads {args.threads}: both must be at least 1")
    if args.markdown is not None and not args.markdown.absolute().parent.is_dir():
        sys.exit(f"--markdown {args.markdown}: its folder does not exist")
    start, rows = time.monotonic(), []
    for section in sections:
        for row in section():
            print(" | ".join(row.cells()), file=sys.stderr)
            rows.append(row)
    minutes = (time.monotonic() - start) / 60
    text = f"{heading(args, device)}, {minutes:.0f} minutes:\n\n{markdown(rows)}\n"
    print(text)
    if args.markdown is not None:
        args.markdown.write_text(text)


def heading(args: argparse.Namespace, device: str) -> str:
    """The day, the machine, versions, threads and rounds."""
    versions = [f"Python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    used = f"--threads {args.threads} --rounds {args.rounds}"
    return f"{date.today()}, {device}, {processor.cores()} cores, {', '.join(versions)}, `{used}`"
