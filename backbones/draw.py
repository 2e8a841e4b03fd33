"""The two cells of a genotype as one SVG, as the paper draws them: inputs at the bottom, h_{i+1} at the top.

Source of the form: 1707.07012, figure 4.
"""

from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

from backbones.cell_layout import BOX_GAP, BOX_WIDTH, MARGIN, PILL_WIDTH, CellLayout
from backbones.genotype import Block, Cell, Genotype
from backbones.operations import OPERATIONS

# Pixels of the drawing at its natural size.
BOX_HEIGHT, PILL_HEIGHT, NODE_GAP = 36, 24, 16
ROW_HEIGHT = BOX_HEIGHT + NODE_GAP + PILL_HEIGHT
TITLE_HEIGHT = 40

# Scoped, since a style inside an inline SVG holds for the whole page. The ground is the picture's own.
STYLE = """
.cells { font: 12px system-ui, "Segoe UI", Roboto, Helvetica, Arial, sans-serif; }
.cells .ground { fill: #fbfaf7; }
.cells text { fill: #22262b; text-anchor: middle; }
.cells .title { font-size: 14px; font-weight: 600; text-anchor: start; }
.cells rect, .cells circle { stroke-width: 1.2; }
.cells .sep { fill: #dce8f6; stroke: #6f97c5; }
.cells .conv { fill: #e6e0f5; stroke: #9585c4; }
.cells .pool { fill: #f7ead1; stroke: #c39a4d; }
.cells .identity { fill: #f0f0ee; stroke: #9b9b96; }
.cells .add { fill: #d7eeda; stroke: #5d9f69; }
.cells .concat { fill: #fbdcd6; stroke: #c9705f; }
.cells .state { fill: #ffffff; stroke: #70757b; }
.cells .h { stroke: #b5562c; }
.cells .h-prev { stroke: #1f7f87; }
.cells path { fill: none; stroke: #8b9097; stroke-width: 1.4; }
.cells path.h { stroke: #c9713f; }
.cells path.h-prev { stroke: #2f959d; }
.cells .dead { opacity: .38; }
.cells .dead path { stroke-dasharray: 3 3; }
@media (prefers-color-scheme: dark) {
.cells .ground { fill: #1d2024; }
.cells text { fill: #e7e9ec; }
.cells .sep { fill: #24374d; stroke: #6f97c5; }
.cells .conv { fill: #352e50; stroke: #9585c4; }
.cells .pool { fill: #463717; stroke: #b98f42; }
.cells .identity { fill: #33363a; stroke: #878b90; }
.cells .add { fill: #21412a; stroke: #5d9f69; }
.cells .concat { fill: #4f2a24; stroke: #c9705f; }
.cells .state { fill: #2a2e33; stroke: #9aa0a6; }
.cells .h { stroke: #e08a58; }
.cells .h-prev { stroke: #45b0b8; }
.cells path { stroke: #80868d; }
.cells path.h { stroke: #d98150; }
.cells path.h-prev { stroke: #3fa6ae; }
}
"""


def draw(genotype: Genotype) -> str:
    """One self-contained SVG of the normal and the reduction cell, side by side."""
    cells = [("Normal cell", genotype.normal), ("Reduction cell", genotype.reduction)]
    return _svg([_Picture(title, cell) for title, cell in cells])


def has_pale_blocks(*genotypes: Genotype) -> bool:
    """Whether a drawing of one of them has a block that does not reach the output."""
    cells = [cell for each in genotypes for cell in (each.normal, each.reduction)]
    return any(len(cell.live_blocks()) < len(cell.blocks) for cell in cells)


def draw_cell(cell: Cell, title: str) -> str:
    """One self-contained SVG of one cell. title: printed above it."""
    return _svg([_Picture(title, cell)])


def _svg(pictures: Sequence["_Picture"]) -> str:
    height = max(picture.height for picture in pictures)
    groups, x = [], 0.0
    for picture in pictures:
        groups.append(f'<g transform="translate({x:g} 0)">{picture.body()}</g>')
        x += picture.width
    names = " and ".join(escape(picture.title) for picture in pictures)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="cells" role="img" aria-label="{names}" '
        f'width="{x:g}" height="{height:g}" viewBox="0 0 {x:g} {height:g}"><style>{STYLE}</style>'
        f'<rect class="ground" width="{x:g}" height="{height:g}" rx="10"/>{"".join(groups)}</svg>'
    )


class _Point(NamedTuple):
    x: float
    y: float


class _Picture:
    """Draws one cell from its layout."""

    def __init__(self, title: str, cell: Cell) -> None:
        self.title, self.cell = title, cell
        self.layout = CellLayout(cell)
        self.live = cell.live_states()
        self.width = max(self.layout.width, 180)
        self.channel = 40 + self.width * 0.03
        self.output_bottom = TITLE_HEIGHT + 2 * PILL_HEIGHT + NODE_GAP
        self.height = self._top(0) + PILL_HEIGHT + MARGIN

    def _top(self, row: int) -> float:
        """Upper edge of a row, pixels from the top."""
        return self.output_bottom + self.channel + (self.layout.top - row) * (ROW_HEIGHT + self.channel)

    def body(self) -> str:
        rows = range(1, self.layout.top + 1)
        wires = [
            self._wire(row, s) for row in rows for s in self.layout.rows[row] if self.layout.depth[s] < row
        ]
        blocks = [self._block(b, block) for b, block in enumerate(self.cell.blocks)]
        title = f'<text class="title" x="{MARGIN}" y="26">{escape(self.title)}</text>'
        return title + "".join(wires) + self._output() + "".join(blocks) + self._inputs()

    def _wire(self, row: int, state: int) -> str:
        """A state on its way past the boxes of a row."""
        x, top = self.layout.x[row][state], self._top(row)
        path = _path(state, self._outlet(row - 1, state), _Point(x, top + ROW_HEIGHT), _Point(x, top))
        return _group("wire", self._passes(row, state), [path])

    def _passes(self, row: int, state: int) -> bool:
        """Whether something above `row` that the output depends on uses the state."""
        users = (2 + b for b, block in enumerate(self.cell.blocks) if state in (block.left, block.right))
        return state in self.cell.concat or any(
            user in self.live and self.layout.depth[user] > row for user in users
        )

    def _outlet(self, row: int, state: int) -> _Point:
        """Where the curves to the row above start."""
        return _Point(self.layout.x[row][state], self._top(row))

    def _block(self, b: int, block: Block) -> str:
        state = 2 + b
        row = self.layout.depth[state]
        x, top = self.layout.x[row][state], self._top(row)
        operands = [(block.left, block.left_op), (block.right, block.right_op)]
        operands.sort(key=lambda operand: self.layout.x[row - 1][operand[0]])
        box_top, node = top + PILL_HEIGHT + NODE_GAP, _Point(x, top + PILL_HEIGHT / 2)
        parts = [
            f"<title>block {b}: {_operand(*operands[0])}, {_operand(*operands[1])}; {block.combine}</title>"
        ]
        for side, (source, operation) in zip((-1, 1), operands, strict=True):
            centre = x + side * (BOX_WIDTH + BOX_GAP) / 2
            inlet = _Point(centre, box_top + BOX_HEIGHT)
            parts.append(_path(source, self._outlet(row - 1, source), inlet))
            parts.append(f'<path d="M{centre:g} {box_top:g}L{node.x + side * 7:g} {node.y + 8:g}"/>')
            parts.append(_operation(operation, centre, box_top))
        parts.append(_node(block.combine, node))
        return _group("block", state in self.live, parts, f' data-block="{b}"')

    def _inputs(self) -> str:
        top = self._top(0)
        return "".join(
            _group("input", s in self.live, [_pill(f"state {_kind(s)}", self.layout.x[0][s], top, name)])
            for s, name in enumerate((_name("i"), _name("i-1")))
        )

    def _output(self) -> str:
        """The concatenation of the cell and its result."""
        middle, width = self.layout.bar
        curves = [
            _path(
                s,
                self._outlet(self.layout.top, s),
                _Point(self.layout.x[self.layout.top][s], self.output_bottom),
            )
            for s in self.cell.concat
        ]
        top = self.output_bottom - PILL_HEIGHT
        stem = f'<path d="M{middle:g} {top:g}V{TITLE_HEIGHT + PILL_HEIGHT}"/>'
        bar = _pill("concat", middle, top, "concat", width)
        result = _pill("state", middle, TITLE_HEIGHT, _name("i+1"))
        return _group("output", True, [*curves, stem, bar, result])


def _group(classes: str, live: bool, parts: Iterable[str], attributes: str = "") -> str:
    return f'<g class="{classes}{"" if live else " dead"}"{attributes}>{"".join(parts)}</g>'


def _path(state: int, start: _Point, end: _Point, *then: _Point) -> str:
    """A curve upwards between two rows that starts and ends vertically, then straight lines."""
    middle = (start.y + end.y) / 2
    curve = f"M{start.x:g} {start.y:g}C{start.x:g} {middle:g} {end.x:g} {middle:g} {end.x:g} {end.y:g}"
    return f'<path class="{_kind(state)}" d="{curve}{"".join(f"L{p.x:g} {p.y:g}" for p in then)}"/>'


def _kind(state: int) -> str:
    return {0: "h", 1: "h-prev"}.get(state, "inner")


def _operand(source: int, operation: str) -> str:
    return f"{operation} of {('h_i', 'h_i-1')[source] if source < 2 else f'block {source - 2}'}"


def _name(index: str) -> str:
    return f'h<tspan dy="3" font-size="9">{index.replace("-", "−")}</tspan>'


def _operation(name: str, x: float, top: float) -> str:
    operation = OPERATIONS[name]
    first, second = operation.label
    lines = [(first, 15), (second, 28)] if second else [(first, 22)]
    texts = "".join(f'<text x="{x:g}" y="{top + y:g}">{text}</text>' for text, y in lines)
    return (
        f'<g class="operation" data-operation="{name}"><rect class="{operation.kind}" '
        f'x="{x - BOX_WIDTH / 2:g}" y="{top:g}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="5"/>{texts}</g>'
    )


def _node(combine: str, centre: _Point) -> str:
    """A green circle adds, a red pill concatenates."""
    if combine == "concat":
        return _pill("concat", centre.x, centre.y - PILL_HEIGHT / 2, "concat")
    plus = f'<text x="{centre.x:g}" y="{centre.y + 4.5:g}">+</text>'
    return f'<g><circle class="add" cx="{centre.x:g}" cy="{centre.y:g}" r="{PILL_HEIGHT / 2:g}"/>{plus}</g>'


def _pill(classes: str, x: float, top: float, label: str, width: float = PILL_WIDTH) -> str:
    """label: markup of this file's own."""
    return (
        f'<g><rect class="{classes}" x="{x - width / 2:g}" y="{top:g}" width="{width:g}" '
        f'height="{PILL_HEIGHT}" rx="{PILL_HEIGHT / 2:g}"/>'
        f'<text x="{x:g}" y="{top + 16:g}">{label}</text></g>'
    )
