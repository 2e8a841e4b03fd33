"""Hypothesis strategies for cells and genotypes of the whole space."""

from hypothesis import strategies as st

from backbones.genotype import COMBINATIONS, OPERATION_NAMES, Block, Cell, Genotype


@st.composite
def cells(draw, max_blocks=5):
    blocks = [
        Block(
            draw(st.integers(0, 1 + b)),
            draw(st.integers(0, 1 + b)),
            draw(st.sampled_from(OPERATION_NAMES)),
            draw(st.sampled_from(OPERATION_NAMES)),
            draw(st.sampled_from(COMBINATIONS)),
        )
        for b in range(draw(st.integers(1, max_blocks)))
    ]
    states = st.lists(st.integers(0, 1 + len(blocks)), min_size=1, unique=True)
    concat = draw(st.one_of(st.none(), states))
    return Cell.with_unused_concat(blocks) if concat is None else Cell(tuple(blocks), tuple(concat))


genotypes = st.builds(Genotype, cells(), cells())
