"""The report's own drawings as inline SVG: the chain of stages, confusion. CSS gives the colours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from backbones.words import counted
from runtime.charts import Series, text_at

NODE_WIDTH, NODE_HEIGHT = 220, 138
ARROW_LENGTH = {"across": 170, "down": 58}
LONGEST_NAME = 18
"""Letters of a class at a confusion matrix; the tooltips have the whole name."""
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
        parts.append(text_at(left - 8, y + field / 2 + 4, name, "end"))
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
    parts.append(text_at(left + side / 2, top + side + 18, "predicted"))
    middle = top + side / 2
    parts.append(f'<text text-anchor="middle" transform="translate(12 {middle:.1f}) rotate(-90)">true</text>')
    width = left + side + right + 2
    classes = counted(size, "class", "classes")
    return (
        f'<svg class="confusion" role="img" aria-label="Confusion matrix of {classes}" '
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
