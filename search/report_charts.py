"""The charts of a report, each in the sizes of the page, with what stands beside them."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from markupsafe import Markup

from backbones.genotype import OPERATION_NAMES
from runtime.charts import HALF_SIZES, Series, charts
from runtime.page import percent, short
from search.comparison import comparable
from search.curves import (
    INPUTS,
    KIND_NAMES,
    PLACES,
    Curve,
    band,
    costs_of,
    cpu_time,
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
from search.history import Group, History
from search.ledger.rows import ChildRow
from search.messages import COUNTS

DOTS = 2000
"""Children that are drawn as dots; of more, evenly so many."""
UNITS = (("CPU-hours", 3600.0), ("CPU-minutes", 60.0), ("CPU-seconds", 1.0), ("CPU-milliseconds", 1e-3))
"""Of time, in seconds; a chart has the largest that its searches fill."""
FRONT = 6
"""Cells of a Pareto front in its table."""

Written = Callable[[float | None], str]
"""A reward as the page shows it."""


def children_chart(search: History, percents: bool) -> dict[str, Any]:
    """Every child of one search, the best so far and the mean of a window."""
    scored = [(float(row.number), row.reward) for row in search.rows if row.reward is not None]
    records = itertools.accumulate((reward for _, reward in scored), max)
    best = [(number, record) for (number, _), record in zip(scored, records, strict=True)]
    failed = [(float(row.number), 0.0) for row in search.rows if row.reward is None]
    window = min(window_of(len(search.rows)), max(1, len(scored)))
    series = [
        Series("child", "dots", thinned(scored, DOTS)),
        Series("mean", "line", sliding_mean(search.rows, window)),
        Series("best", "steps", thinned(best, 4 * PLACES)),
        Series("failed", "crosses", thinned(failed, DOTS // 4)),
    ]
    drawn = charts(series, "Reward of each child", "child", percent=percents)
    return {"charts": drawn, "window": window, "failed": bool(failed)}


def top_charts(groups: Sequence[Group], count: int, percents: bool) -> list[list[Markup]]:
    """The mean of the best cells against children and against CPU time, in the unit that suits it."""
    times = [sum(map(cpu_time, search.rows)) for group in groups for search in group.searches]
    unit, size = next((each for each in UNITS if max(times) >= each[1]), UNITS[-1])

    def scaled(row: ChildRow) -> float:
        return cpu_time(row) / size

    found = []
    for by, x_label, x_text in ((one_child, "children", None), (scaled, unit, _three_digits)):
        if by is scaled and not max(times):
            continue
        series: list[Series] = []
        for i, group in enumerate(groups):
            series += _mean_line(i, [top_mean(search, count, by) for search in group.searches], steps=True)
        label = f"Mean reward of the best {count} against {x_label}"
        if drawn := charts(series, label, x_label, percent=percents, x_text=x_text, sizes=HALF_SIZES):
            found.append(drawn)
    return found


def _mean_line(place: int, curves: Sequence[Curve], *, steps: bool = False) -> list[Series]:
    """The mean of a group's searches, over the band between them; empty where they have no x in common.

    place: of the group on the page, which gives the colour. steps: values are constant up to the next one."""
    found = band(curves)
    if found is None:
        return []
    name, shape = f"line-{place}", _stepped if steps else list
    spread = [Series(name, "band", shape(found.low), upper=shape(found.high))] if len(curves) > 1 else []
    return [*spread, Series(name, "steps" if steps else "line", found.mean)]


def _stepped(curve: Curve) -> Curve:
    """With the corners between a value and the next one."""
    corners = ((x, y) for (_, y), (x, _) in itertools.pairwise(curve))
    return [curve[0], *(each for pair in zip(corners, curve[1:], strict=True) for each in pair)]


def _three_digits(value: float) -> str:
    return f"{value:,.3g}"


def entropy_charts(groups: Sequence[Group], window: int) -> list[tuple[str, list[Markup]]]:
    """A chart for each kind of decision, a line for each strategy: the mean of its searches."""
    by_kind: dict[str, list[Series]] = {}
    for i, group in enumerate(groups):
        found = [entropies(search, search.space, window) for search in group.searches if search.space]
        for kind in KIND_NAMES.values():
            if lines := _mean_line(i, [each[kind] for each in found if kind in each]):
                by_kind.setdefault(kind, []).extend(lines)
    drawn = []
    for kind, lines in by_kind.items():
        label = f"Evenness of the {kind} over the children"
        drawn.append((kind, charts(lines, label, "child", percent=True, sizes=HALF_SIZES)))
    return drawn


def share_charts(group: Group, window: int) -> list[dict[str, Any]]:
    """Operations and inputs of a strategy as stacked areas, each in one colour on the whole page."""
    found = []
    for what, options, shares in (
        ("Operations", OPERATION_NAMES, operation_shares(group, window)),
        ("Inputs", INPUTS, input_shares(group, window)),
    ):
        if not shares:
            continue
        low: Curve = [(x, 0.0) for x, _ in next(iter(shares.values()))]
        series = []
        for name, curve in shares.items():
            high = [(x, y + share) for (x, y), (_, share) in zip(low, curve, strict=True)]
            text = f"{name}: {percent(curve[0][1])} at first, {percent(curve[-1][1])} at last"
            series.append(Series(f"stack-{options.index(name)}", "band", low, text, high))
            low = high
        label = f"{what} over the children, {group.name}"
        drawn = charts(series, label, "child", percent=True, whole=True)
        last = [(options.index(name), name, curve[0][1], curve[-1][1]) for name, curve in shares.items()]
        found.append({"what": what, "group": group.name, "charts": drawn, "shares": last})
    return found


def pareto_charts(
    searches: Sequence[History], groups: Sequence[Group], percents: bool, write: Written
) -> list[dict[str, Any]]:
    """For each cost, and each set of searches that can be compared: all cells as dots, the front of these
    searches together, and its cells."""
    found = []
    apart = comparable(searches)
    for cost in costs_of(searches):
        for members in apart:
            home = {id(row): search for search in members for row in search.unique}
            rows = [row for search in members for row in search.unique]
            if not (front := front_of(rows, cost)):
                continue
            own = [(i, group, _dots(group, members, cost)) for i, group in enumerate(groups)]
            series = [Series(f"line-{i}", "dots", dots) for i, _, dots in own if dots]
            line = [(float(row.costs[cost]), row.accuracy or 0.0) for row in front]
            series.append(Series("front", "steps", line))
            text = short if cost in COUNTS else _three_digits
            label = cost.replace("_", "-") if cost == "multiply_adds" else cost.replace("_", " ")
            table = [
                (home[id(row)], row, text(row.costs[cost]), write(row.accuracy)) for row in front[-FRONT:]
            ]
            told = f"Accuracy against {label}"
            if len(apart) > 1:
                told += f": {', '.join(group.name for _, group, dots in own if dots)}"
            drawn = charts(series, told, label, percent=percents, x_text=text)
            shown = [(i, group) for i, group, dots in own if dots]
            found.append(
                {
                    "title": told,
                    "label": label,
                    "charts": drawn,
                    "groups": shown,
                    "front": table,
                    "size": len(front),
                }
            )
    return found


def _dots(group: Group, members: Sequence[History], cost: str) -> Curve:
    """Cost and accuracy of the cells of those searches of a group that are among `members`."""
    dots = [
        (float(value), row.accuracy)
        for search in group.searches
        if search in members
        for row in search.unique
        if (value := row.costs.get(cost)) is not None and row.accuracy is not None
    ]
    return thinned(sorted(dots), DOTS)
