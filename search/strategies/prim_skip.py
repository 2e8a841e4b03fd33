"""Random cells of one pattern: residual links from both inputs, and separable convolutions elsewhere.

Wan et al., "On Redundancy and Diversity in Cell-based Neural Architecture Search" (ICLR 2022, 2203.08887),
found this pattern in good cells of the DARTS space, and that random cells which have it do as well as
searched ones. Their rule PrimSkip, as their notebook `sample_archs.ipynb` draws it: in both cells the first
node adds the two inputs, each through an identity; every later node adds separable convolutions of two
different earlier states; all else is uniform. In this space:

1. Separable convolutions are all that the space has, 3x3, 5x5 and 7x7 in the paper's (theirs had two sizes).
2. Blocks are joined by addition alone; their space has no other combination.
3. A block may take any earlier state; the notebook leaves out the one just before it.
"""

import math

from backbones.ranges import KEY, ConfigError
from runtime.random import uniforms
from search.space import Space
from search.strategies.config import PrimSkipConfig
from search.strategies.uniform import RandomSearch


class PrimSkip(RandomSearch):
    """Draws uniformly among the cells of the pattern and learns nothing."""

    def __init__(self, config: PrimSkipConfig, space: Space, seed: int):
        """config: has no keys of its own. Raises ConfigError for a space without such cells."""
        super().__init__(config, space, seed)
        self._separable = [i for i, name in enumerate(space.operations) if name.startswith("sep_conv")]
        if not self._separable or "identity" not in space.operations or "add" not in space.combinations:
            raise ConfigError(
                f"{KEY}name = prim_skip needs identity and a sep_conv in space.operations and add in "
                f"space.combinations; they are {', '.join((*space.operations, *space.combinations))}"
            )
        later = sum(math.log((2 + b) * (1 + b)) for b in range(1, space.blocks))
        self._entropy = 2 * (later + 2 * (space.blocks - 1) * math.log(len(self._separable)))

    def _draw(self, number: int) -> tuple[int, ...]:
        identity = self._space.operations.index("identity")
        add = self._space.combinations.index("add")
        chance = iter(uniforms(8 * self._space.blocks, self._seed, "prim_skip", number).tolist())
        decisions: list[int] = []
        for block in [*range(self._space.blocks)] * 2:
            if block == 0:
                decisions += (0, 1, identity, identity, add)
                continue
            left, right = int(next(chance) * (2 + block)), int(next(chance) * (1 + block))
            operations = [self._separable[int(next(chance) * len(self._separable))] for _ in range(2)]
            decisions += (left, right + (right >= left), *operations, add)
        return tuple(decisions)
