"""The report's drawings as inline SVG: the chain of stages, charts, confusion. CSS gives the colours."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

Points = Sequence[tuple[float, float]]

NODE_WIDTH, NODE_HEIGHT = 220, 138
ARROW_LENGTH = {"across": 170, "down": 58}
LONGEST_NAME = 18
"""Letters of a class at a confusion matrix; the tooltips have the whole name."""
MARKED_POINTS = 30
"""Points of a line up to which each is a dot, too: a single one would not be seen."""
LETTER = 7.5
"""Pixels of a letter of a chart's text, about."""
NUMBERED_FIELD = 26
"""Pixels of a field from which three digits fit."""


@dataclass(frozen=True)
class ChainNode:
    """A stage. headline: its key figure. lines: up to three more. product: the file that it writes."""

    title: str
    headline: str
    lines: Sequence[str]
    product: str
    done: bool


def chain(nodes: Sequence[ChainNode], direction: str = "across") -> str:
    """The stages as boxes, joined by arrows that carry the file names. direction: `across` or `down`."""
    across = direction == "across"
    step = (NODE_WIDTH if across else NODE_HEIGHT) + ARROW_LENGTH[direction]
    length = step * (len(nodes) - 1) + (NODE_WIDTH if across else NODE_HEIGHT) + 2
    width, height = (length, NODE_HEIGHT + 2) if across else (NODE_WIDTH + 120, length)
    parts = []
    for i, node in enumerate(nodes):
        x, y = (1 + i * step, 1) if across else (60, 1 + i * step)
        parts.append(_node(node, x, y))
        if i + 1 < len(nodes):
            parts.append(_arrow(node.product, x, y, direction))
    return (
        f'<svg class="chain {direction}" role="img" aria-label="The chain: {escape(nodes[0].title)} to '
        f'{escape(nodes[-1].title)}" viewBox="0 0 {width} {height}" style="max-width:{width}px">'
        f"{''.join(parts)}</svg>"
    )


def _node(node: ChainNode, x: float, y: float) -> str:
    middle = x + NODE_WIDTH / 2
    lines = "".join(
        f'<text class="small" x="{middle:g}" y="{y + 82 + 18 * i:g}">{escape(line)}</text>'
        for i, line in enumerate(node.lines)
    )
    return (
        f'<g class="{"node" if node.done else "node absent"}"><rect x="{x}" y="{y}" width="{NODE_WIDTH}" '
        f'height="{NODE_HEIGHT}" rx="10"/>'
        f'<text class="name" x="{middle:g}" y="{y + 26}">{escape(node.title)}</text>'
        f'<text class="figure" x="{middle:g}" y="{y + 58}">{escape(node.headline)}</text>{lines}</g>'
    )


def _arrow(label: str, x: float, y: float, direction: str) -> str:
    length = ARROW_LENGTH[direction]
    if direction == "across":
        start, middle = x + NODE_WIDTH, y + NODE_HEIGHT / 2
        end = start + length
        line = f"M{start + 6:g} {middle:g}H{end - 6:g}m-7 -4l7 4l-7 4"
        at, anchor = (start + length / 2, middle - 9), "middle"
    else:
        start, middle = y + NODE_HEIGHT, x + NODE_WIDTH / 2
        line = f"M{middle:g} {start + 6:g}V{start + length - 6:g}m-4 -7l4 7l4 -7"
        at, anchor = (middle + 10, start + length / 2 + 4), "start"
    text = f'<text class="file" x="{at[0]:g}" y="{at[1]:g}" text-anchor="{anchor}">{escape(label)}</text>'
    return f'<g class="arrow"><path d="{line}"/>{text}</g>'


@dataclass(frozen=True)
class Series:
    """One thing in a chart.

    style: `line`, `steps` (constant up to the next point), `dots`, `crosses` or `mark`.

    name: CSS class that gives the colour. Crosses stand on the ground line, whatever their y. A mark is a
    ring around its one point, with `text` at it."""

    name: str
    style: str
    points: Points
    text: str = ""


def chart(
    series: Sequence[Series],
    width: int,
    height: int,
    *,
    label: str,
    x_label: str,
    percent: bool,
    whole: bool = False,
) -> str:
    """A chart of `series`, x in whole numbers, y in percent of 1 where `percent`. Sizes in pixels.

    label: what a screen reader says. x_label: below the axis. whole: y is 0 to 1 wherever the values
    lie. Empty where nothing has a y."""
    values = [y for one in series if one.style != "crosses" for _, y in one.points if math.isfinite(y)]
    if not values:
        return ""
    xs = [x for one in series for x, _ in one.points]
    ticks = nice_ticks(0, 1, 5) if whole else nice_ticks(*_range(values, percent), 5)
    left, right, top, bottom = 52, 14, 12, 44
    single = min(xs) == max(xs)
    x_low, x_high = (min(xs) - 1, max(xs) + 1) if single else (min(xs), max(xs))

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            left + (x - x_low) / (x_high - x_low) * (width - left - right),
            top + (ticks[-1] - y) / (ticks[-1] - ticks[0]) * (height - top - bottom),
        )

    parts = [_y_tick(at(x_low, tick)[1], tick, ticks, left, width - right, percent) for tick in ticks]
    for tick in xs[:1] if single else nice_ticks(x_low, x_high, max(5, width // 110), inside=True):
        if tick == int(tick):
            parts.append(_text(at(tick, ticks[0])[0], height - 26, f"{tick:,.0f}"))
    parts.append(_text((left + width - right) / 2, height - 6, x_label))
    for one in series:
        if one.style == "crosses":
            places = [at(x, ticks[0]) for x, _ in one.points]
        else:
            places = [at(x, y) for x, y in one.points if math.isfinite(y)]
        marked = one.style == "mark"
        parts.append(_mark(one, *places[0], left, width - right) if marked else _series(one, places))
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


def _y_tick(y: float, tick: float, ticks: Sequence[float], left: float, right: float, percent: bool) -> str:
    scale = 100 if percent else 1
    digits = max(0, -math.floor(math.log10(scale * (ticks[1] - ticks[0])) + 1e-9))
    text = f"{scale * tick:.{digits}f}{' %' if percent else ''}"
    return f'<path class="grid" d="M{left:g} {y:.1f}H{right:g}"/>' + _text(left - 8, y + 4, text, "end")


def _text(x: float, y: float, text: str, anchor: str = "middle") -> str:
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
    if one.style == "line" and len(places) <= MARKED_POINTS:
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


def confusion(classes: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """A confusion matrix, `[K][K]` images by true, then by predicted class; each row is shaded by its shares.

    Numbers stand in the fields where K is small enough for them, else in the tooltips alone."""
    size = len(classes)
    field = max(16, min(40, 560 // size))
    shown = [name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…" for name in classes]
    longest = max(map(len, shown))
    slanted = longest * 7 > field  # names beside each other would touch
    left, top = 34 + 7 * longest, (26 + 5 * longest) if slanted else 40
    right = 5 * longest if slanted else 0
    parts = []
    for row, name in enumerate(shown):
        y = top + row * field
        parts.append(_text(left - 8, y + field / 2 + 4, name, "end"))
        x = left + (row + 0.5) * field
        turned = f' transform="rotate(-45 {x:.1f} {top - 8})"' if slanted else ""
        anchor = "start" if slanted else "middle"
        parts.append(f'<text x="{x:.1f}" y="{top - 8}" text-anchor="{anchor}"{turned}>{escape(name)}</text>')
        for column, images in enumerate(counts[row]):
            if images:
                what = (
                    f"{classes[row]} taken for {classes[column]}" if row != column else f"{name} recognised"
                )
                title = f"{what}: {images} of {sum(counts[row])}"
                place = (left + column * field, y, field)
                parts.append(_field(*place, images, images / sum(counts[row]), row == column, title))
    side = size * field
    parts.append(f'<rect class="frame" x="{left}" y="{top}" width="{side}" height="{side}"/>')
    parts.append(_text(left + side / 2, top + side + 18, "predicted"))
    middle = top + side / 2
    parts.append(f'<text text-anchor="middle" transform="translate(12 {middle:.1f}) rotate(-90)">true</text>')
    width = left + side + right + 2
    return (
        f'<svg class="confusion" role="img" aria-label="Confusion matrix of {size} classes" '
        f'width="{width}" viewBox="0 0 {width} {top + side + 24}">{"".join(parts)}</svg>'
    )


def _field(x: float, y: float, side: float, images: int, share: float, right: bool, title: str) -> str:
    kind = "right" if right else "wrong"
    opacity = f"{0.15 + 0.85 * share:.2f}"
    number = ""
    if side >= NUMBERED_FIELD:
        strong = ' class="strong"' if share > 0.5 else ""
        place = f'x="{x + side / 2:.1f}" y="{y + side / 2 + 4:.1f}"'
        number = f'<text{strong} {place} text-anchor="middle">{images}</text>'
    return (
        f'<g><title>{escape(title)}</title><rect class="{kind}" x="{x}" y="{y}" width="{side}" '
        f'height="{side}" opacity="{opacity}"/>{number}</g>'
    )


def reward_series(rewards: Mapping[int, float | None]) -> tuple[list[Series], int]:
    """The search as a chart: reward of each child by number, best so far, mean of a window; and its length.

    rewards: None for a failed child. The window covers the last tenth of the children, at least five."""
    scored = [(number, reward) for number, reward in sorted(rewards.items()) if reward is not None]
    window = max(5, len(rewards) // 10)
    best: list[tuple[float, float]] = []
    means: list[tuple[float, float]] = []
    for i, (number, reward) in enumerate(scored):
        best.append((number, max(reward, best[-1][1] if best else reward)))
        recent = [r for _, r in scored[max(0, i + 1 - window) : i + 1]]
        means.append((number, sum(recent) / len(recent)))
    failed = [(number, 0.0) for number, reward in sorted(rewards.items()) if reward is None]
    return [
        Series("child", "dots", scored),
        Series("mean", "line", means),
        Series("best", "steps", best),
        Series("failed", "crosses", failed),
    ], window
