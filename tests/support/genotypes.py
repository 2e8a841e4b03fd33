"""A small genotype; hypothesis strategies for cells and genotypes of the whole space and small networks."""

from pathlib import Path

from hypothesis import strategies as st

from backbones.genotype import COMBINATIONS, OPERATION_NAMES, Block, Cell, Genotype
from backbones.spec import PADDINGS, STEMS, NetworkSpec

TWO_BLOCKS = Path(__file__).with_name("two_blocks.json")
"""A genotype file for training that only has to be short: a step takes half of NASNet-A's time."""


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


@st.composite
def small_specs(draw, sizes, stems=STEMS, max_cells_per_stage=2):
    """Networks of 8 or 12 filters. sizes: strategy for the side of the image in pixels."""
    return NetworkSpec(
        draw(genotypes),
        draw(st.integers(1, max_cells_per_stage)),
        draw(st.sampled_from([8, 12])),  # the imagenet stem makes 3 of 12: halves that are not equal
        stem=draw(st.sampled_from(stems)),
        stem_filters=draw(st.sampled_from([3, 8])),
        image_size=draw(sizes),
        padding=draw(st.sampled_from(PADDINGS)),
        skip_reduction_input=draw(st.booleans()),
    )
