"""The search space: what is decided, between how many options, and the genotype that the decisions mean.

Letters: B blocks per cell, T = 2 cells x B blocks x 5 decisions, O the largest number of options.
Order of the decisions: the normal cell's blocks, then the reduction cell's; within a block left, right,
left_op, right_op, combine. Block b chooses left and right among its 2 + b states. The unused states are
concatenated. Source: 1707.07012, section 3.1 and appendix A.1.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from backbones.genotype import COMBINATIONS, OPERATION_NAMES, Block, Cell, Genotype
from backbones.words import counted
from runtime.random import uniforms
from search.config import SpaceConfig

STATE, OPERATION, COMBINATION = 0, 1, 2
KINDS = (STATE, STATE, OPERATION, OPERATION, COMBINATION)
"""What each of a block's five decisions chooses."""


@dataclass(frozen=True)
class Space:
    """All genotypes of `blocks` blocks per cell over the given operations and combinations."""

    blocks: int = 5
    operations: tuple[str, ...] = OPERATION_NAMES
    combinations: tuple[str, ...] = COMBINATIONS

    @classmethod
    def of(cls, config: SpaceConfig) -> "Space":
        """The space that a configuration describes."""
        return cls(config.blocks, tuple(config.operations), tuple(config.combinations))

    @property
    def sizes(self) -> tuple[int, ...]:
        """`[T]`, number of options of each decision."""
        operations, combinations = len(self.operations), len(self.combinations)
        cell = [(2 + b, 2 + b, operations, operations, combinations) for b in range(self.blocks)]
        return tuple(size for block in cell + cell for size in block)

    @property
    def kinds(self) -> tuple[int, ...]:
        """`[T]`, STATE, OPERATION or COMBINATION."""
        return KINDS * (2 * self.blocks)

    @property
    def entropy(self) -> float:
        """Of the uniform policy, in nats: the logarithm of the number of decision sequences."""
        return sum(math.log(size) for size in self.sizes)

    def mask(self) -> np.ndarray:
        """`[T, O]` bool, True where the option exists."""
        return np.arange(max(self.sizes)) < np.array(self.sizes)[:, None]

    def decode(self, decisions: Sequence[int]) -> Genotype:
        """The genotype that `[T]` decisions mean. Raises ValueError for a wrong length or option."""
        sizes = self.sizes
        if len(decisions) != len(sizes):
            raise ValueError(f"{len(decisions)} decisions, this space has {len(sizes)}")
        for step, (option, size) in enumerate(zip(decisions, sizes, strict=True)):
            if not 0 <= option < size:
                raise ValueError(f"decision {step} = {option}, must be in 0..{size - 1}")
        blocks = []
        for start in range(0, len(sizes), 5):
            left, right, left_op, right_op, combine = decisions[start : start + 5]
            operations = self.operations[left_op], self.operations[right_op]
            blocks.append(Block(int(left), int(right), *operations, self.combinations[combine]))
        return Genotype(
            Cell.with_unused_concat(blocks[: self.blocks]), Cell.with_unused_concat(blocks[self.blocks :])
        )

    def encode(self, genotype: Genotype) -> tuple[int, ...]:
        """The `[T]` decisions that mean `genotype`. Raises ValueError where it lies outside the space.

        The inverse of `decode`: the round trip is the law that pins the order of decisions, on
        which every ledger relies.
        """
        decisions: list[int] = []
        for name, cell in (("normal", genotype.normal), ("reduction", genotype.reduction)):
            if len(cell.blocks) != self.blocks:
                raise ValueError(
                    f"{name} has {counted(len(cell.blocks), 'block')}, this space has {self.blocks}"
                )
            if set(cell.concat) != set(Cell.with_unused_concat(cell.blocks).concat):
                raise ValueError(f"{name}.concat = {list(cell.concat)}, this space joins the unused states")
            for b, block in enumerate(cell.blocks):
                where = f"{name}.blocks[{b}]"
                decisions += (
                    block.left,
                    block.right,
                    _index(self.operations, block.left_op, f"{where}.left_op"),
                    _index(self.operations, block.right_op, f"{where}.right_op"),
                    _index(self.combinations, block.combine, f"{where}.combine"),
                )
        return tuple(decisions)

    def sample(self, seed: int, number: int) -> tuple[int, ...]:
        """`[T]` decisions, each uniform over its options; a pure function of (seed, number)."""
        chance = uniforms(len(self.sizes), seed, "uniform", number)
        return tuple(int(u * size) for u, size in zip(chance, self.sizes, strict=True))

    def mutate(self, decisions: Sequence[int], chance: Sequence[float]) -> tuple[int, ...]:
        """`[T]` decisions that differ in exactly one place; a pure function of its arguments.

        chance: two numbers in [0, 1). The first says which decision changes, each being equally likely; the
        second what it becomes, each of the other options being equally likely.
        """
        sizes = self.sizes
        changeable = [step for step, size in enumerate(sizes) if size > 1]
        step = changeable[int(chance[0] * len(changeable))]
        shift = 1 + int(chance[1] * (sizes[step] - 1))
        changed = (decisions[step] + shift) % sizes[step]
        return (*decisions[:step], changed, *decisions[step + 1 :])


def _index(options: tuple[str, ...], value: str, where: str) -> int:
    if value not in options:
        raise ValueError(f"{where} = {value!r}, this space has {', '.join(options)}")
    return options.index(value)
