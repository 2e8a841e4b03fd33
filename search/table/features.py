"""A genotype as numbers, from which a surrogate learns: what its cells hold, and what its network costs."""

import math

import numpy as np

from backbones.costs import profile
from backbones.genotype import OPERATION_NAMES, Cell, Genotype
from search.children.config import ChildConfig

_OF_CELL = (
    *(f"{name}" for name in OPERATION_NAMES),
    *("inputs h_i", "inputs h_i-1", "inputs blocks", "adds", "blocks", "outputs", "depth", "skips to output"),
)
_OF_NETWORK = ("log parameters", "log multiply-adds", "log activations")
NAMES = (*(f"{cell}: {name}" for cell in ("normal", "reduction") for name in _OF_CELL), *_OF_NETWORK)
"""Of the features, in their order."""


def features(genotype: Genotype, child: ChildConfig) -> np.ndarray:
    """`[len(NAMES)]`, equal for genotypes with one canonical form. child: gives the network its size."""
    canonical = genotype.canonical()
    costs = profile(child.spec(canonical))
    network = [math.log(n) for n in (costs.parameters, costs.multiply_adds, costs.activation_bytes)]
    return np.array([*_cell(canonical.normal), *_cell(canonical.reduction), *network])


def _cell(cell: Cell) -> list[float]:
    """In the order of `_OF_CELL`. Depth is the longest way from an input to the output, in blocks."""
    operands = [each for b in cell.blocks for each in ((b.left, b.left_op), (b.right, b.right_op))]
    operations = [operation for _, operation in operands]
    inputs = [min(state, 2) for state, _ in operands]
    depths = [0, 0]
    for block in cell.blocks:
        depths.append(1 + max(depths[block.left], depths[block.right]))
    outputs = {state - 2 for state in cell.concat if state >= 2}
    last = [cell.blocks[number] for number in outputs]
    skips = sum((b.left_op == "identity") + (b.right_op == "identity") for b in last)
    adds = sum(block.combine == "add" for block in cell.blocks)
    shape = (adds, len(cell.blocks), len(cell.concat), max(depths), skips)
    return [
        *(operations.count(name) for name in OPERATION_NAMES),
        *(inputs.count(i) for i in range(3)),
        *shape,
    ]
