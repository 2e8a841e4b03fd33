"""What a genotype is: two cells, each a list of blocks over hidden states. Values and JSON only, no torch.

Letters: B blocks per cell. States of a cell: 0 is h_i (the output of the previous cell), 1 is h_{i-1}
(the output of the cell before it), 2 + b is the output of block b. Source: 1707.07012, section 3.1.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from backbones.files import convert_json, read_json, write_json
from backbones.operations import OPERATIONS
from backbones.words import clipped, counted

FORMAT = 1
MOST_BLOCKS = 64
"""Blocks of a cell; the paper's has 5."""
MOST_STEPS = 1_000_000
"""Orders that the canonical form tries times the blocks squared: seconds. 10 blocks have up to 504,000."""
COMBINATIONS = ("add", "concat")
OPERATION_NAMES = tuple(OPERATIONS)


class GenotypeError(ValueError):
    """A genotype that breaks a rule; the message names cell, block and field."""


@dataclass(frozen=True)
class Block:
    """`left_op(states[left])` combined with `right_op(states[right])`.

    left, right: index into the states known so far. combine: one of COMBINATIONS.
    """

    left: int
    right: int
    left_op: str
    right_op: str
    combine: str = "add"

    def swapped(self) -> "Block":
        """The same function with its operands exchanged (for `concat` up to the order of channels)."""
        return Block(self.right, self.left, self.right_op, self.left_op, self.combine)


@dataclass(frozen=True)
class Cell:
    """Blocks in order of computation, and the states whose concatenation is the output.

    concat: distinct states in channel order; it may leave out unused states (docs/nasnet.md, trap T1).
    """

    blocks: tuple[Block, ...]
    concat: tuple[int, ...]

    @classmethod
    def with_unused_concat(cls, blocks: Iterable[Block]) -> "Cell":
        """Concatenates the states that no block uses, as the paper's text says (section 3.1).

        The cell's own inputs are never concatenated by this rule; the last block always is.
        """
        blocks = tuple(blocks)
        used = {state for block in blocks for state in (block.left, block.right)}
        return cls(blocks, tuple(2 + b for b in range(len(blocks)) if 2 + b not in used))

    def live_states(self) -> frozenset[int]:
        """States that the output depends on."""
        live = set(self.concat)
        for b in reversed(range(len(self.blocks))):
            if 2 + b in live:
                live |= {self.blocks[b].left, self.blocks[b].right}
        return frozenset(live)

    def live_blocks(self) -> dict[int, Block]:
        """The blocks that the output depends on, by the number of their state."""
        live = self.live_states()
        return {state: block for state, block in enumerate(self.blocks, start=2) if state in live}

    def canonical(self) -> "Cell":
        """The one representative of all cells that compute the same function up to channel order.

        Dead blocks go; the operands of `add` and `concat` are ordered; blocks are re-ordered by what they
        compute, the smallest that can be computed first; the concat list is sorted.
        """
        blocks = self.live_blocks()
        orders = _orders(blocks, {0: 0, 1: 1})
        candidates = (
            Cell(
                tuple(_renamed(blocks[state], order) for state in list(order)[2:]),
                tuple(sorted(order[state] for state in self.concat)),
            )
            for order in orders
        )
        return min(candidates, key=lambda cell: ([_order(block) for block in cell.blocks], cell.concat))


def _orders(blocks: Mapping[int, Block], renamed: dict[int, int]) -> Iterator[dict[int, int]]:
    """All renumberings (old state to new, in order) that always take a smallest block next.

    Equal blocks stay apart, since their weights differ, and each may go first: which one matters to their
    consumers. Those without consumers are interchangeable but for the concat list, so one order is enough.
    """
    if len(renamed) == 2 + len(blocks):
        yield renamed
        return
    ready = {
        state: _order(_renamed(block, renamed))
        for state, block in blocks.items()
        if state not in renamed and block.left in renamed and block.right in renamed
    }
    first = min(ready.values())
    smallest = [state for state, order in ready.items() if order == first]
    used = {state for block in blocks.values() for state in (block.left, block.right)}
    idle = [state for state in smallest if state not in used]
    for state in [state for state in smallest if state in used] + idle[:1]:
        yield from _orders(blocks, renamed | {state: len(renamed)})


def _renamed(block: Block, names: Mapping[int, int]) -> Block:
    left, right = names[block.left], names[block.right]
    block = Block(left, right, block.left_op, block.right_op, block.combine)
    return min(block, block.swapped(), key=_order)


def _order(block: Block) -> tuple[int, str, int, str, str]:
    return (block.left, block.left_op, block.right, block.right_op, block.combine)


@dataclass(frozen=True)
class Genotype:
    """A normal and a reduction cell. `origin` says where it came from and does not count in comparisons.

    Raises GenotypeError when built from cells that break a rule.
    """

    normal: Cell
    reduction: Cell
    origin: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        for name in ("normal", "reduction"):
            _check_cell(getattr(self, name), name)

    def canonical(self) -> "Genotype":
        return Genotype(self.normal.canonical(), self.reduction.canonical(), self.origin)

    @cached_property
    def key(self) -> str:
        """16 hexadecimal digits, equal for genotypes with one canonical form, stable across versions."""
        cells = [_cell_to_dict(cell) for cell in (self.normal.canonical(), self.reduction.canonical())]
        return hashlib.sha256(json.dumps(cells, sort_keys=True).encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "normal": _cell_to_dict(self.normal),
            "reduction": _cell_to_dict(self.reduction),
            "origin": dict(self.origin),
        }

    @classmethod
    def from_dict(cls, value: Any, where: str = "genotype") -> "Genotype":
        """Reads `to_dict`'s form. where: file name for the message. Raises GenotypeError."""
        prefix = f"{where}: "
        try:
            fields = convert_json(value, dict[str, Any], prefix)
            if type(version := fields.pop("format", None)) is not int or version != FORMAT:
                raise ValueError(f"{prefix}format = {clipped(version)}, this version reads format {FORMAT}")
            _check_finite(fields.get("origin"), prefix)
            return convert_json({"origin": {}, **fields}, cls, prefix)
        except ValueError as error:
            raise GenotypeError(str(error)) from None

    def save(self, path: str | os.PathLike[str]) -> None:
        write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Genotype":
        """Raises FileNotFoundError or ValueError (GenotypeError for its content), naming the file."""
        return cls.from_dict(read_json(path, "genotype"), where=str(Path(path)))


def _check_finite(origin: Any, prefix: str) -> None:
    """Raises ValueError for what Python's JSON reads and writes, and JSON does not have."""
    try:
        json.dumps(origin, allow_nan=False)
    except ValueError:
        raise ValueError(f"{prefix}origin holds a number that is not finite, which JSON cannot say") from None


def _check_cell(cell: Cell, name: str) -> None:
    if not cell.blocks:
        raise GenotypeError(f"{name}.blocks is empty, expected at least one block")
    if len(cell.blocks) > MOST_BLOCKS:
        raise GenotypeError(f"{name}.blocks has {len(cell.blocks)} blocks, expected at most {MOST_BLOCKS}")
    for b, block in enumerate(cell.blocks):
        where = f"{name}.blocks[{b}]"
        for side in ("left", "right"):
            state = getattr(block, side)
            if type(state) is not int or not 0 <= state < 2 + b:
                raise GenotypeError(
                    f"{where}.{side} = {clipped(state)}, but block {b} can only use states 0..{1 + b} "
                    f"(h_i, h_{{i-1}}{', blocks 0..' + str(b - 1) if b else ''})"
                )
            operation = getattr(block, f"{side}_op")
            if operation not in OPERATIONS:
                raise GenotypeError(
                    f"{where}.{side}_op = {clipped(operation)}, expected one of {', '.join(OPERATIONS)}"
                )
        if block.combine not in COMBINATIONS:
            raise GenotypeError(
                f"{where}.combine = {clipped(block.combine)}, expected one of {', '.join(COMBINATIONS)}"
            )
    last = 1 + len(cell.blocks)
    if not cell.concat:
        raise GenotypeError(f"{name}.concat is empty, expected states out of 0..{last}")
    for state in cell.concat:
        if type(state) is not int or not 0 <= state <= last:
            raise GenotypeError(f"{name}.concat holds {clipped(state)}, expected states out of 0..{last}")
    if len(set(cell.concat)) != len(cell.concat):
        raise GenotypeError(f"{name}.concat = {clipped(list(cell.concat))} names a state twice")
    orders, allowed = _count_orders(cell), MOST_STEPS // len(cell.blocks) ** 2
    if orders > allowed:
        raise GenotypeError(
            f"{name}.blocks has {orders:.3g} orders of equal blocks, expected at most {allowed} among "
            f"{counted(len(cell.blocks), 'block')}"
        )


def _count_orders(cell: Cell) -> int:
    """How many orders `_orders` yields: renumbering keeps states apart, so equal blocks are equal already."""
    blocks = cell.live_blocks()
    used = {state for block in blocks.values() for state in (block.left, block.right)}
    groups: dict[Block, list[bool]] = {}
    for state, block in blocks.items():
        groups.setdefault(min(block, block.swapped(), key=_order), []).append(state in used)
    return math.prod(math.perm(len(group), sum(group)) for group in groups.values())


def _cell_to_dict(cell: Cell) -> dict[str, Any]:
    return {"blocks": [dict(vars(block)) for block in cell.blocks], "concat": list(cell.concat)}
