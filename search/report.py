"""Writes one self-contained page about a search, or about several side by side.

    python -m search.report DIR... [--output FILE]

Searches that differ only in their seeds are one strategy's line, with a band from the lowest to the highest
of them. Works while a search runs, and on folders that are only read if --output names another place.
"""

import statistics
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from markupsafe import Markup

from backbones.arguments import documented_parser, one_line_errors
from backbones.draw import draw, has_pale_blocks
from backbones.files import check_output, real_path, write_output
from backbones.words import counted
from runtime.page import page, percent, short
from search import commands
from search.checklist import checklist
from search.comparison import settings, short_names, unlike
from search.curves import TOP, window_of
from search.estimate import duration
from search.history import Group, History, grouped
from search.ledger.located import Located, located
from search.ledger.rows import ChildRow
from search.paired import Difference, differences, figures
from search.report_charts import (
    Written,
    children_chart,
    entropy_charts,
    pareto_charts,
    share_charts,
    top_charts,
)
from search.standing import stopped

TEMPLATE = Path(__file__).with_name("report.html.j2")
DRAWN = 3
"""Best cells that are drawn."""
LISTED = 10
"""Cells in a table."""
Names = Mapping[Path, str]
"""What each search is called on the page, by folder."""
STARTED = 4
"""Searches whose own commands are listed."""


def write_report(folders: Sequence[Path], output: Path | None = None) -> Path:
    """Writes the page, by default as `search_report.html` into the first folder; prints and returns where it
    is. output: `-` prints the page instead.

    Raises FileNotFoundError where a folder holds no search, and ValueError for a broken ledger, for a search
    that is named twice, where no child is done, or where the page cannot be written."""
    if output is not None:
        check_output(output, text=True)
    searches = [History.read(found) for found in _distinct(folders)]
    if not any(search.rows for search in searches):
        raise ValueError(f"{folders[0]}: no child of the search is done yet")
    searches = [search for search in searches if search.rows]
    path = output or searches[0].folder / "search_report.html"
    check_output(path, text=output is not None)
    write_output(path, page(TEMPLATE, _context(searches)))
    return path


def _distinct(folders: Sequence[Path]) -> list[Located]:
    """The searches. Raises ValueError for one that is named twice, by whatever paths."""
    names: dict[Path, Path] = {}
    searches: list[Located] = []
    for folder in folders:
        found = located(folder)
        first = names.setdefault(real_path(found.ledger), folder)
        if len(names) == len(searches):
            raise ValueError(f"{folder}: the same search as {first}; name each one once")
        searches.append(found)
    return searches


def _context(searches: Sequence[History]) -> dict[str, Any]:
    groups, names = grouped(searches), short_names(searches)
    differing = settings(groups) if len(groups) > 1 else []
    rewards = [row.reward for search in searches for row in search.rows if row.reward is not None]
    percents = all(0 <= reward <= 1 for reward in rewards)
    write = partial(_written, percents)
    window = window_of(min(len(search.rows) for search in searches))
    late = min([window, *(len(each.rewards) for each in searches if each.rewards)])
    best = sorted(
        ((search, row) for search in searches for row in search.best[:LISTED]),
        key=lambda each: -(each[1].reward or 0.0),
    )[:LISTED]
    return {
        "title": real_path(searches[0].folder).name if len(searches) == 1 else f"{len(searches)} searches",
        "searches": searches,
        "groups": groups,
        "names": names,
        "settings": differing,
        "unlike": unlike(groups, differing),
        "write": write,
        "notes": [
            *(note for search in searches for note in (*search.notes, *_unfinished(search, names))),
            *_repeated(groups, names),
        ],
        "figures": _figures(searches, groups, write),
        "late": late,
        "top_names": [*(f"top {count}" for count in TOP), f"last {late}"],
        "comparison": _comparison(groups, late, write, percents),
        "runs": (runs := [_run(search, names, groups, late, write) for search in searches]),
        "stopping": any(run["stopped"] is not None for run in runs),
        "children_chart": children_chart(searches[0], percents) if len(searches) == 1 else None,
        "top": [
            (f"Mean of the best {counted(count, 'unique cell')}" if count > 1 else "Best cell", charts_of)
            for count in TOP
            if (charts_of := top_charts(groups, count, percents))
        ],
        "percents": percents,
        "window": window,
        "entropy": entropy_charts(groups, window),
        "no_entropy": _why_no_entropy(searches, names, window),
        "shares": [share for group in groups for share in share_charts(group, window)],
        "failures": _failures(searches, names),
        "pareto": pareto_charts(searches, groups, percents, write),
        "cells": [
            (_caption(search, row, names, write), Markup(draw(row.genotype))) for search, row in best[:DRAWN]
        ],
        "pale": has_pale_blocks(*(row.genotype for _, row in best[:DRAWN])),
        "best": best,
        "checklist": checklist(groups),
        "commands": _commands(searches),
        "duration": duration,
    }


def _why_no_entropy(searches: Sequence[History], names: Names, window: int) -> str:
    """Why the charts of what was chosen are missing, where they are."""
    if unknown := [search for search in searches if search.space is None]:
        which = ", ".join(names[search.folder] for search in unknown)
        return (
            f"{which}: config.yaml names no space that this version knows and that the children are of, so "
            "nothing is said of what was chosen."
        )
    fewest = counted(min(len(search.rows) for search in searches), "child", "children")
    return f"What was chosen is shown in windows of {window} children; here {fewest} are done so far."


def _written(percents: bool, value: float | None) -> str:
    if percents or value is None:
        return percent(value, 2)
    return f"{value:.4g}"


def _figures(searches: Sequence[History], groups: Sequence[Group], write: Written) -> list[tuple[str, str]]:
    children = sum(len(search.rows) for search in searches)
    best = max((row.reward or 0.0 for search in searches for row in search.best[:1]), default=None)
    hours = sum(search.cpu_hours for search in searches)
    wall = sum(search.snapshot.seconds for search in searches)
    return [
        ("children done", f"{children:,}"),
        ("best reward", write(best)),
        ("CPU time", duration(3600 * hours)),
        ("wall time", duration(wall)),
        *([("strategies", str(len(groups)))] if len(groups) > 1 else []),
    ]


def _run(search: History, names: Names, groups: Sequence[Group], late: int, write: Written) -> dict[str, Any]:
    """A row of the table of searches. late: as for `_late_mean`."""
    snapshot = search.snapshot
    return {
        "folder": str(search.folder),
        "name": names[search.folder],
        "group": next(group.name for group in groups if search in group.searches),
        "seed": search.seed,
        "done": f"{len(search.rows):,} of {snapshot.budget:,}",
        "best": write(search.best[0].reward if search.best else None),
        "late": write(_late_mean(search, late)),
        "duplicates": f"{snapshot.duplicates:,}",
        "rejected": f"{snapshot.rejected:,}",
        "failed": f"{snapshot.failures.total():,}",
        "stopped": stopped(snapshot, search.config),
        "standing": search.standing.word.partition(":")[0],
        "cpu": duration(3600 * search.cpu_hours),
        "wall": duration(snapshot.seconds),
    }


def _unfinished(search: History, names: Names) -> list[str]:
    """How a search stands that has not finished, and why."""
    word, why, _ = search.standing
    if not search.snapshot.left_open:
        return []
    which = f"{names[search.folder]}: " if len(names) > 1 else ""
    return [f"{which}{word}" + (f": {why}" if why else "")]


def _repeated(groups: Sequence[Group], names: Names) -> list[str]:
    """Which folders hold one search, as its copies do: each of them counts, its seed only once."""
    found = []
    for group in groups:
        for seed in dict.fromkeys(group.seeds):
            alike = [names[search.folder] for search in group.searches if search.seed == seed]
            if len(alike) > 1:
                found.append(
                    f"{', '.join(alike)}: one configuration and one seed, so one search, {len(alike)} times"
                )
    return found


def _late_mean(search: History, late: int) -> float | None:
    """Mean reward of the `late` newest children that have one."""
    return statistics.fmean(search.rewards[-late:]) if search.rewards else None


def _comparison(groups: Sequence[Group], late: int, write: Written, percents: bool) -> list[dict[str, Any]]:
    """Per strategy the best cells and the last children: mean over the seeds, lowest and highest."""
    rows = []
    for group in groups:
        values: dict[str, list[float]] = {}
        for search in group.searches:
            for name, value in figures(search, len(search.rows), late).items():
                values.setdefault(name, []).append(value)
        cells = {
            name: [write(f(each)) for f in (statistics.fmean, min, max)] for name, each in values.items()
        }
        paired = differences(group, groups, late)
        against = {name: _told_difference(each, percents) for name, each in paired.items()}
        seeds = max((each.seeds for each in paired.values()), default=0)
        rows.append(
            {"group": group, "seeds": group.seeds, "cells": cells, "paired": against, "common": seeds}
        )
    return rows


def _told_difference(found: Difference, percents: bool) -> tuple[str, str]:
    """Mean and interval, in points where rewards are shares."""
    told = [f"{100 * value:+.2f}" if percents else f"{value:+.3g}" for value in found[:3]]
    mean, low, high = (text.replace("-", "−") for text in told)
    return mean, f"{low} to {high}"


def _failures(searches: Sequence[History], names: Names) -> list[tuple[str, str, int, str]]:
    """Search, kind, how many, and the first one in words."""
    found = []
    for search in searches:
        kinds = Counter(row.failure for row in search.rows if row.failure)
        for kind, count in kinds.most_common():
            first = next(row for row in search.rows if row.failure == kind)
            found.append(
                (names[search.folder], str(kind), count, f"child {first.number}: {first.detail[:300]}")
            )
    return found


def _caption(search: History, row: ChildRow, names: Names, write: Written) -> str:
    where = f" of {names[search.folder]}" if len(names) > 1 else ""
    size = f", {short(row.parameters)} parameters" if row.parameters else ""
    return f"Child {row.number}{where}: {write(row.reward)}{size}"


def _commands(searches: Sequence[History]) -> list[tuple[str, str]]:
    started = [commands.again(search.folder) for search in searches]
    found = [("The search again, or on with it", command) for command in started if command][:STARTED]
    scored = [search for search in searches if search.best]
    if scored:
        best = max(scored, key=lambda search: search.best[0].reward or 0.0)
        child = best.best[0].number
        found += [
            ("Train the best cells longer, and choose among them", commands.rerank(best.folder)),
            ("Is the best one luck? Run it again", f"{commands.about('search.replay', best.folder)} {child}"),
        ]
    table = commands.about("search.status", searches[0].folder)
    whole = commands.about("search.report", *(search.folder for search in searches))
    return [
        *found,
        ("All children as a table", f"{table} --csv children.csv"),
        ("Write this page again", whole),
    ]


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> int:
    parser = documented_parser("search.report", __doc__)
    parser.add_argument("dirs", type=Path, nargs="+", metavar="DIR", help="folders of searches, or ledgers")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="default: search_report.html in the first DIR; -: standard output",
    )
    asked = parser.parse_args(arguments)
    write_report(asked.dirs, asked.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
