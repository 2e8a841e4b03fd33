"""Charts as inline SVG, for the reports. The page's CSS gives the colours: `page.css`."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from markupsafe import Markup

Points = Sequence[tuple[float, float]]

SIZES = ((1030, 300), (360, 250))
"""Each chart is drawn for wide and for narrow pages, so that its text is readable on both."""
HALF_SIZES = ((500, 250), (360, 250))
"""Of charts that stand in pairs on wide pages."""
MARKED_POINTS = 30
"""Points of a line up to which each is a dot, too: a single one would not be seen."""
LETTER = 8.0
"""Pixels of a letter of a chart's text, at most on average."""
GAP = 8
"""Pixels between a text at the y axis and the axis."""


@dataclass(frozen=True)
class Series:
    """One thing in a chart.

    style: `line`, `steps` (constant up to the next point), `dots`, `crosses`, `band` or `mark`.

    name: CSS class that gives the colour. Crosses stand on the ground line, whatever their y. A band is the
    area between its points and those of `upper`, which have the same xs. A mark is a ring around its one
    point, with `text` at it; of other styles it is the tooltip."""

    name: str
    style: str
    points: Points
    text: str = ""
    upper: Points = ()


def charts(
    series: Sequence[Series],
    label: str,
    x_label: str,
    *,
    percent: bool,
    whole: bool = False,
    x_text: Callable[[float], str] | None = None,
    sizes: Sequence[tuple[int, int]] = SIZES,
) -> list[Markup]:
    """The chart in each of the sizes; none where there is nothing to show. See `chart`."""
    told = {"label": label, "x_label": x_label, "percent": percent, "whole": whole, "x_text": x_text}
    drawn = (chart(series, width, height, **told) for width, height in sizes)  # type: ignore[arg-type]
    return [Markup(svg) for svg in drawn if svg]


def chart(
    series: Sequence[Series],
    width: int,
    height: int,
    *,
    label: str,
    x_label: str,
    percent: bool,
    whole: bool = False,
    x_text: Callable[[float], str] | None = None,
) -> str:
    """A chart of `series`, y in percent of 1 where `percent`. Sizes in pixels.

    label: what a screen reader says. x_label: below the axis. whole: y is 0 to 1 wherever the values
    lie. x_text: an x as it stands at the axis; None: only whole numbers stand there. Empty where nothing has
    a y."""
    drawn = (point for one in series if one.style != "crosses" for point in (*one.points, *one.upper))
    values = [y for _, y in drawn if math.isfinite(y)]
    if not values:
        return ""
    xs = [x for one in series for x, _ in one.points]
    ticks = nice_ticks(0, 1, 5) if whole else nice_ticks(*_range(values, percent), 5)
    y_texts = [_y_text(tick, ticks, percent) for tick in ticks]
    left, right, top, bottom = max(52, GAP + LETTER * max(map(len, y_texts))), 14, 12, 44
    single = min(xs) == max(xs)
    x_low, x_high = (min(xs) - 1, max(xs) + 1) if single else (min(xs), max(xs))

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            left + (x - x_low) / (x_high - x_low) * (width - left - right),
            top + (ticks[-1] - y) / (ticks[-1] - ticks[0]) * (height - top - bottom),
        )

    parts = [
        f'<path class="grid" d="M{left:g} {at(x_low, tick)[1]:.1f}H{width - right:g}"/>'
        + text_at(left - GAP, at(x_low, tick)[1] + 4, text, "end")
        for tick, text in zip(ticks, y_texts, strict=True)
    ]
    for tick in xs[:1] if single else nice_ticks(x_low, x_high, max(5, width // 110), inside=True):
        if x_text or tick == int(tick):
            shown = x_text(tick) if x_text else f"{tick:,.0f}"
            middle = min(at(tick, ticks[0])[0], width - LETTER * len(shown) / 2)
            parts.append(text_at(middle, height - 26, shown))
    parts.append(text_at((left + width - right) / 2, height - 6, x_label))
    for one in series:
        if one.style == "crosses":
            places = [at(x, ticks[0]) for x, _ in one.points]
        else:
            places = [at(x, y) for x, y in one.points if math.isfinite(y)]
        if one.style == "mark":
            parts.append(_mark(one, *places[0], left, width - right))
        elif one.style == "band":
            parts.append(_band(one, places, [at(x, y) for x, y in one.upper]))
        else:
            parts.append(_series(one, places))
    return (
        f'<svg class="chart" role="img" aria-label="{escape(label)}" viewBox="0 0 {width} {height}" '
        f'style="max-width:{width}px">{"".join(parts)}</svg>'
    )


def _range(values: Sequence[float], percent: bool) -> tuple[float, float]:
    """What the y axis covers at least; of one value, a tenth around it."""
    low, high = min(values), max(values)
    if high - low > 1e-9:
        return low, high
    margin = 0.05 if percent else max(0.05 * abs(low), 1e-3)
    return (max(0.0, low - margin) if low >= 0 else low - margin), high + margin


def _mark(one: Series, x: float, y: float, left: float, right: float) -> str:
    half = LETTER * len(one.text) / 2
    middle = min(max(x, left + half), right - half)
    below = y < 34
    place = f'x="{middle:.1f}" y="{y + 22 if below else y - 13:.1f}"'
    return (
        f'<circle class="mark {escape(one.name)}" cx="{x:.1f}" cy="{y:.1f}" r="6"/>'
        f'<text class="mark" {place} text-anchor="middle">{escape(one.text)}</text>'
    )


def _band(one: Series, low: Points, high: Points) -> str:
    """With a tooltip where it has a text."""
    edge = "L".join(f"{x:.1f} {y:.1f}" for x, y in (*low, *reversed(high)))
    title = f"<title>{escape(one.text)}</title>" if one.text else ""
    return f'<path class="band {escape(one.name)}" d="M{edge}Z">{title}</path>'


def _y_text(tick: float, ticks: Sequence[float], percent: bool) -> str:
    scale = 100 if percent else 1
    digits = max(0, -math.floor(math.log10(scale * (ticks[1] - ticks[0])) + 1e-9))
    return f"{scale * tick:.{digits}f}{' %' if percent else ''}"


def text_at(x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _series(one: Series, places: Points) -> str:
    if not places:
        return ""
    if one.style == "dots":
        data = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in places)
    elif one.style == "crosses":
        data = "".join(f"M{x - 3.5:.1f} {y - 3.5:.1f}l7 7m-7 0l7 -7" for x, y in places)
    elif one.style == "steps":
        (x, y), rest = places[0], places[1:]
        data = f"M{x:.1f} {y:.1f}" + "".join(f"H{x:.1f}V{y:.1f}" for x, y in rest)
    else:
        data = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    drawn = f'<path class="{one.style} {escape(one.name)}" d="{data}"/>'
    if len(places) <= {"line": MARKED_POINTS, "steps": 1}.get(one.style, 0):
        dots = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in places)
        drawn += f'<path class="point-dots {escape(one.name)}" d="{dots}"/>'
    return drawn


def nice_ticks(low: float, high: float, count: int, *, inside: bool = False) -> list[float]:
    """At most `count` + 2 multiples of 1, 2 or 5 times a power of ten, around low..high, or inside of it."""
    span = max(high - low, 1e-3 * max(abs(high), 1e-3))
    raw = span / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next(m for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9))
    if inside:
        start, end = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    else:
        start, end = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    if start == end and not inside:
        end += 1
    return [round(i * step, 12) for i in range(start, end + 1)]
