"""Writes one self-contained page about a search, or about several side by side.

    python -m search.report DIR... [--output FILE]

Searches that differ only in their seeds are one strategy's line, with a band from the lowest to the highest
of them. Works while a search runs, and on folders that are only read if --output names another place.
"""

import argparse
import shlex
import statistics
import sys
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from markupsafe import Markup

from backbones.draw import draw
from backbones.files import check_output, write_atomically
from backbones.words import counted, printable_lines, told
from celltransfer import program
from runtime.charts import HALF_SIZES, Series, charts
from runtime.page import page, percent, short
from search.checklist import checklist
from search.curves import (
    KIND_NAMES,
    PLACES,
    TOP,
    Curve,
    band,
    costs_of,
    cpu_hours,
    entropies,
    front_of,
    input_shares,
    one_child,
    operation_shares,
    sliding_mean,
    thinned,
    top_mean,
    window_of,
)
from search.estimate import duration
from search.history import Group, History, grouped
from search.ledger.rows import ChildRow
from search.messages import COUNTS
from search.status import ledger_of

TEMPLATE = Path(__file__).with_name("report.html.j2")
DOTS = 2000
"""Children that are drawn as dots; of more, evenly so many."""
FRONT = 6
"""Cells of a Pareto front in its table."""
DRAWN = 3
"""Best cells that are drawn."""
LISTED = 10
"""Cells in a table."""


def write_report(folders: Sequence[Path], output: Path | None = None) -> Path:
    """Writes the page, by default as `search_report.html` into the first folder, and returns where it is.

    Raises FileNotFoundError where a folder holds no search, ValueError for a broken ledger where no child is
    done, or where the page cannot be written."""
    if output is not None:
        check_output(output)
    searches = [History.read(ledger_of(folder)) for folder in folders]
    if not any(search.rows for search in searches):
        raise ValueError(f"{folders[0]}: no child of the search is done yet")
    searches = [search for search in searches if search.rows]
    path = output or searches[0].folder / "search_report.html"
    check_output(path)
    write_atomically(path, page(TEMPLATE, _context(searches)))
    return path


def _context(searches: Sequence[History]) -> dict[str, Any]:
    groups = grouped(searches)
    rewards = [row.reward for search in searches for row in search.rows if row.reward is not None]
    percents = all(0 <= reward <= 1 for reward in rewards)
    write = partial(_written, percents)
    window = window_of(min(len(search.rows) for search in searches))
    best = sorted(
        ((search, row) for search in searches for row in search.best[:LISTED]),
        key=lambda each: -(each[1].reward or 0.0),
    )[:LISTED]
    return {
        "title": searches[0].folder.resolve().name if len(searches) == 1 else f"{len(searches)} searches",
        "searches": searches,
        "groups": groups,
        "write": write,
        "percents": percents,
        "notes": [note for search in searches for note in search.notes],
        "figures": _figures(searches, groups, write),
        "comparison": _comparison(groups, write),
        "runs": [_run(search, groups, write) for search in searches],
        "children_chart": _single(searches[0], percents) if len(searches) == 1 else None,
        "top": [
            (f"Mean of the best {counted(count, 'unique cell')}" if count > 1 else "Best cell", charts_of)
            for count in TOP
            if (charts_of := _top(groups, count, percents))
        ],
        "window": window,
        "entropy": _entropy(groups, window),
        "shares": [share for group in groups for share in _share_charts(group, window)],
        "failures": _failures(searches),
        "pareto": _pareto(searches, groups, percents, write),
        "cells": [
            (_caption(search, row, searches, write), Markup(draw(row.genotype)))
            for search, row in best[:DRAWN]
        ],
        "best": best,
        "checklist": checklist(groups),
        "commands": _commands(searches),
        "duration": duration,
    }


def _written(percents: bool, value: float | None) -> str:
    if percents or value is None:
        return percent(value, 2)
    return f"{value:.4g}"


def _figures(searches: Sequence[History], groups: Sequence[Group], write: Any) -> list[tuple[str, str]]:
    children = sum(len(search.rows) for search in searches)
    best = max((row.reward or 0.0 for search in searches for row in search.best[:1]), default=None)
    hours = sum(search.cpu_hours for search in searches)
    wall = sum(float(search.snapshot.facts.get("seconds") or 0) for search in searches)
    return [
        ("children done", f"{children:,}"),
        ("best reward", write(best)),
        ("CPU time", duration(3600 * hours)),
        ("wall time", duration(wall)),
        *([("strategies", str(len(groups)))] if len(groups) > 1 else []),
    ]


def _run(search: History, groups: Sequence[Group], write: Any) -> dict[str, Any]:
    """A row of the table of searches."""
    snapshot = search.snapshot
    return {
        "folder": str(search.folder),
        "name": search.folder.name,
        "group": next(group.name for group in groups if search in group.searches),
        "seed": search.seed,
        "done": f"{len(search.rows):,} of {snapshot.budget:,}",
        "best": write(search.best[0].reward if search.best else None),
        "late": write(_late_mean(search)),
        "duplicates": f"{snapshot.duplicates:,}",
        "rejected": f"{snapshot.rejected:,}",
        "failed": f"{snapshot.failures.total():,}",
        "cpu": duration(3600 * search.cpu_hours),
        "wall": duration(float(snapshot.facts.get("seconds") or 0)),
    }


def _late_mean(search: History) -> float | None:
    """Of the newest tenth of the children; see `window_of`."""
    late = [row.reward for row in search.rows if row.reward is not None][-window_of(len(search.rows)) :]
    return statistics.fmean(late) if late else None


def _comparison(groups: Sequence[Group], write: Any) -> list[dict[str, Any]]:
    """Per strategy the best cells and the last children: mean over the seeds, lowest and highest."""
    rows = []
    for group in groups:
        values: dict[str, list[float]] = {}
        for search in group.searches:
            rewards = [row.reward or 0.0 for row in search.best]
            for count in TOP:
                if len(rewards) >= count:
                    values.setdefault(f"top {count}", []).append(sum(rewards[:count]) / count)
            if (late := _late_mean(search)) is not None:
                values.setdefault("last", []).append(late)
        cells = {
            name: [write(f(each)) for f in (statistics.fmean, min, max)] for name, each in values.items()
        }
        rows.append({"name": group.name, "seeds": group.seeds, "cells": cells})
    return rows


def _single(search: History, percents: bool) -> dict[str, Any]:
    """Every child of one search, the best so far and the mean of a window."""
    window = window_of(len(search.rows))
    scored = [(float(row.number), row.reward) for row in search.rows if row.reward is not None]
    best: Curve = []
    for number, reward in scored:
        best.append((number, max(reward, best[-1][1] if best else reward)))
    failed = [(float(row.number), 0.0) for row in search.rows if row.reward is None]
    series = [
        Series("child", "dots", thinned(scored, DOTS)),
        Series("mean", "line", sliding_mean(search.rows, window)),
        Series("best", "steps", thinned(best, 4 * PLACES)),
        Series("failed", "crosses", thinned(failed, DOTS // 4)),
    ]
    drawn = charts(series, "Reward of each child", "child", percent=percents)
    return {"charts": drawn, "window": window, "failed": bool(failed)}


def _top(groups: Sequence[Group], count: int, percents: bool) -> list[tuple[str, list[Markup]]]:
    """Against children and against CPU-hours."""
    found = []
    for by, x_label, x_text in ((one_child, "children", None), (cpu_hours, "CPU-hours", _hours)):
        series = []
        for i, group in enumerate(groups):
            curves = band([top_mean(search, count, by) for search in group.searches])
            if curves is None:
                continue
            if len(group.searches) > 1:
                series.append(Series(f"line-{i}", "band", curves.low, upper=curves.high))
            series.append(Series(f"line-{i}", "line", curves.mean))
        label = f"Mean reward of the best {count} against {x_label}"
        if drawn := charts(series, label, x_label, percent=percents, x_text=x_text, sizes=HALF_SIZES):
            found.append((x_label, drawn))
    return found


def _hours(value: float) -> str:
    return f"{value:,.3g}"


def _entropy(groups: Sequence[Group], window: int) -> list[tuple[str, list[Markup]]]:
    """A chart for each kind of decision, a line for each strategy: the mean of its searches."""
    by_kind: dict[str, list[Series]] = {}
    for i, group in enumerate(groups):
        found = [entropies(search, search.space, window) for search in group.searches if search.space]
        for kind in KIND_NAMES.values():
            if curves := band([each[kind] for each in found if kind in each]):
                lines = by_kind.setdefault(kind, [])
                if len(found) > 1:
                    lines.append(Series(f"line-{i}", "band", curves.low, upper=curves.high))
                lines.append(Series(f"line-{i}", "line", curves.mean))
    return [
        (
            kind,
            charts(
                lines, f"Evenness of the {kind} over the children", "child", percent=True, sizes=HALF_SIZES
            ),
        )
        for kind, lines in by_kind.items()
    ]


def _share_charts(group: Group, window: int) -> list[dict[str, Any]]:
    """Operations and inputs of a strategy as stacked areas."""
    found = []
    for what, shares in (
        ("Operations", operation_shares(group, window)),
        ("Inputs", input_shares(group, window)),
    ):
        if not shares:
            continue
        low: Curve = [(x, 0.0) for x, _ in next(iter(shares.values()))]
        series = []
        for i, (name, curve) in enumerate(shares.items()):
            high = [(x, y + share) for (x, y), (_, share) in zip(low, curve, strict=True)]
            text = f"{name}: {percent(curve[0][1])} at first, {percent(curve[-1][1])} at last"
            series.append(Series(f"stack-{i}", "band", low, text, high))
            low = high
        label = f"{what} over the children, {group.name}"
        drawn = charts(series, label, "child", percent=True, whole=True)
        last = [(name, curve[0][1], curve[-1][1]) for name, curve in shares.items()]
        found.append({"what": what, "group": group.name, "charts": drawn, "shares": last, "window": window})
    return found


def _failures(searches: Sequence[History]) -> list[tuple[str, str, int, str]]:
    """Search, kind, how many, and the first one in words."""
    found = []
    for search in searches:
        kinds = Counter(row.failure for row in search.rows if row.failure)
        for kind, count in kinds.most_common():
            first = next(row for row in search.rows if row.failure == kind)
            found.append(
                (search.folder.name, str(kind), count, f"child {first.number}: {first.detail[:300]}")
            )
    return found


def _pareto(
    searches: Sequence[History], groups: Sequence[Group], percents: bool, write: Any
) -> list[dict[str, Any]]:
    """For each cost: all cells as dots, the front of all searches together, and its cells."""
    found = []
    rows = [row for search in searches for row in search.unique]
    home = {id(row): search for search in searches for row in search.unique}
    for cost in costs_of(searches):
        front = front_of(rows, cost)
        series = []
        for i, group in enumerate(groups):
            dots = [
                (float(value), row.accuracy)
                for search in group.searches
                for row in search.unique
                if (value := row.costs.get(cost)) is not None and row.accuracy is not None
            ]
            series.append(Series(f"line-{i}", "dots", thinned(sorted(dots), DOTS)))
        line = [(float(row.costs[cost]), row.accuracy or 0.0) for row in front]
        series.append(Series("front", "steps", line))
        text = short if cost in COUNTS else _hours
        label = cost.replace("_", "-") if cost == "multiply_adds" else cost.replace("_", " ")
        table = [(home[id(row)], row, text(row.costs[cost]), write(row.accuracy)) for row in front[-FRONT:]]
        drawn = charts(series, f"Accuracy against {label}", label, percent=percents, x_text=text)
        found.append({"label": label, "charts": drawn, "front": table, "size": len(front)})
    return found


def _caption(search: History, row: ChildRow, searches: Sequence[History], write: Any) -> str:
    where = f" of {search.folder.name}" if len(searches) > 1 else ""
    size = f", {short(row.parameters)} parameters" if row.parameters else ""
    return f"Child {row.number}{where}: {write(row.reward)}{size}"


def _commands(searches: Sequence[History]) -> list[tuple[str, str]]:
    first = shlex.quote(str(searches[0].folder))
    folders = " ".join(shlex.quote(str(search.folder)) for search in searches)
    best = max(searches, key=lambda search: (search.best[0].reward or 0.0) if search.best else float("-inf"))
    child = best.best[0].number if best.best else 0
    commands = [
        (
            "Train the best cells longer, and choose among them",
            f"{program('search.rerank')} dir={first} top=25",
        ),
        (
            "Is the best one luck? Run it again",
            f"{program('search.replay')} {shlex.quote(str(best.folder))} {child}",
        ),
        ("All children as a table", f"{program('search.status')} {first} --csv children.csv"),
        ("Write this page again", f"{program('search.report')} {folders}"),
    ]
    started = [("The search again, or on with it", search.command) for search in searches if search.command]
    return [*started[:4], *commands]


def main(arguments: Sequence[str] | None = None) -> int:
    intro, _, more = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        prog=program("search.report"),
        description=intro,
        epilog=more.replace("python -m search.report", program("search.report")).strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dirs", type=Path, nargs="+", metavar="DIR", help="folders of searches, or ledgers")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="default: search_report.html in the first DIR"
    )
    asked = parser.parse_args(arguments)
    try:
        print(write_report(asked.dirs, asked.output))
    except (OSError, ValueError) as error:
        print(printable_lines(told(error)), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
