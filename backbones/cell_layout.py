"""Where the blocks of a cell lie in its drawing: inputs at the bottom, rows of blocks, h_{i+1} at the top.

A block's row is one above its highest input. A state that is used further up passes the rows between as a
vertical *wire* with a place of its own, so that curves run only between two rows and meet no box.
"""

from collections.abc import Sequence
from itertools import pairwise
from statistics import mean

from backbones.genotype import Cell

# Pixels of the drawing at its natural size.
BOX_WIDTH, BOX_GAP = 64, 6
BLOCK_WIDTH = 2 * BOX_WIDTH + BOX_GAP
PILL_WIDTH, WIRE_WIDTH = 56, 10
COLUMN_GAP, OVERHANG, MARGIN = 16, 18, 20


class CellLayout:
    """Where the states of a cell lie.

    depth[s]: row of state s, 0 for the inputs. rows[r]: states in row r from left to right, those of the
    row itself and those that pass. x[r][s]: centre of state s in row r; bar: centre and length of the
    concatenation above; width: of all; pixels.
    """

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self.depth = [0, 0]
        for block in cell.blocks:
            self.depth.append(1 + max(self.depth[block.left], self.depth[block.right]))
        self.top = max(self.depth)
        until = list(self.depth)
        for b, block in enumerate(cell.blocks):
            for state in (block.left, block.right):
                until[state] = max(until[state], self.depth[2 + b] - 1)
        for state in cell.concat:
            until[state] = self.top
        states = [1, 0, *range(2, len(self.depth))]
        self.rows = [[s for s in states if self.depth[s] <= row <= until[s]] for row in range(self.top + 1)]
        self._order()
        self.x = self._place()
        self._fit()

    def below(self, row: int, state: int) -> tuple[int, ...]:
        """States of the row below that `state` in this row connects to; twice where both operands are it."""
        if row == 0:
            return ()
        if self.depth[state] < row:
            return (state,)
        block = self.cell.blocks[state - 2]
        return (block.left, block.right)

    def above(self, row: int, state: int) -> list[int]:
        """States of the row above that `state` in this row connects to."""
        if row == self.top:
            return []
        return [s for s in self.rows[row + 1] for source in self.below(row + 1, s) if source == state]

    def _order(self) -> None:
        """Sorts each row by the mean place of its neighbours, up and down; keeps the fewest crossings."""
        best = [list(row) for row in self.rows]
        fewest = self._crossings()
        for sweep in range(8):
            rows = range(1, self.top + 1) if sweep % 2 == 0 else range(self.top - 1, 0, -1)
            for row in rows:
                near = self.rows[row - 1] if sweep % 2 == 0 else self.rows[row + 1]
                neighbours = self.below if sweep % 2 == 0 else self.above
                old = self.rows[row]
                place = {
                    s: mean(map(near.index, neighbours(row, s)) if neighbours(row, s) else [old.index(s)])
                    for s in old
                }
                old.sort(key=place.__getitem__)
            if (crossings := self._crossings()) < fewest:
                fewest, best = crossings, [list(row) for row in self.rows]
        self.rows = best

    def _crossings(self) -> int:
        total = 0
        for row in range(1, self.top + 1):
            near = self.rows[row - 1]
            ends = [
                (near.index(source), i) for i, s in enumerate(self.rows[row]) for source in self.below(row, s)
            ]
            total += sum((a - c) * (b - d) < 0 for a, b in ends for c, d in ends) // 2
        return total

    def _width(self, row: int, state: int) -> int:
        if self.depth[state] < row:
            return WIRE_WIDTH
        return BLOCK_WIDTH if row else PILL_WIDTH

    def _place(self) -> list[dict[int, float]]:
        """Moves each state towards the mean of its neighbours, row by row, as far as its row has room."""
        x = [{s: float(i * BLOCK_WIDTH) for i, s in enumerate(row)} for row in self.rows]
        for sweep in range(24):
            rows = range(self.top + 1) if sweep % 2 == 0 else range(self.top, -1, -1)
            for row in rows:
                states = self.rows[row]
                desired = []
                for s in states:
                    near = [x[row - 1][t] for t in self.below(row, s)]
                    near += [x[row + 1][t] for t in self.above(row, s)]
                    if row not in (0, self.top) and s in x[row - 1] and s in x[row + 1]:
                        near += 3 * [x[row - 1][s], x[row + 1][s]]  # straight wires read best
                    desired.append(mean(near) if near else x[row][s])
                widths = [self._width(row, s) for s in states]
                x[row] = dict(zip(states, _spread(desired, widths), strict=True))
        return x

    def _fit(self) -> None:
        """Moves everything so that the leftmost thing is MARGIN from the edge; sets `width` and `bar`."""
        ends = [(self.x[r][s], self._width(r, s) / 2) for r, row in enumerate(self.rows) for s in row]
        outputs = [self.x[self.top][s] for s in self.cell.concat]
        length = max(max(outputs) - min(outputs) + 2 * OVERHANG, PILL_WIDTH)
        centre = (min(outputs) + max(outputs)) / 2
        ends.append((centre, length / 2))
        shift = MARGIN - min(x - half for x, half in ends)
        self.x = [{s: x + shift for s, x in row.items()} for row in self.x]
        self.bar = (centre + shift, length)
        self.width = max(x + half for x, half in ends) + shift + MARGIN


def _spread(desired: Sequence[float], widths: Sequence[int]) -> list[float]:
    """Centres nearest to the desired ones (least squares) that keep the order and overlap nowhere.

    With the widths subtracted this is regression under a monotone order: pool adjacent violators."""
    offsets = [0.0]
    for a, b in pairwise(widths):
        offsets.append(offsets[-1] + (a + b) / 2 + COLUMN_GAP)
    pools: list[tuple[float, int]] = []
    for d, o in zip(desired, offsets, strict=True):
        pools.append((d - o, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (low, m), (high, n) = pools[-2:]
            pools[-2:] = [((low * m + high * n) / (m + n), m + n)]
    free = [value for value, count in pools for _ in range(count)]
    return [value + offset for value, offset in zip(free, offsets, strict=True)]
