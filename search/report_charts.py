"""The charts of a report, each in the sizes of the page, with what stands beside them."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from markupsafe import Markup

from runtime.charts import HALF_SIZES, Series, charts
from runtime.page import percent, short
from search.curves import (
    KIND_NAMES,
    PLACES,
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
from search.history import Group, History
from search.messages import COUNTS

DOTS = 2000
"""Children that are drawn as dots; of more, evenly so many."""
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
    """The mean of the best cells against children and against CPU-hours."""
    found = []
    for by, x_label, x_text in ((one_child, "children", None), (cpu_hours, "CPU-hours", _hours)):
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


def _hours(value: float) -> str:
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
        found.append({"what": what, "group": group.name, "charts": drawn, "shares": last})
    return found


def pareto_charts(
    searches: Sequence[History], groups: Sequence[Group], percents: bool, write: Written
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
