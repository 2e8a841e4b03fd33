import math
from collections import Counter

import numpy as np
import pytest
from genotypes import genotypes
from hypothesis import given
from hypothesis import strategies as st

from backbones.genotype import COMBINATIONS, OPERATION_NAMES, Block, Cell, Genotype
from search.config import SpaceConfig
from search.space import Space


@st.composite
def spaces(draw):
    operations = st.lists(st.sampled_from(OPERATION_NAMES), min_size=1, unique=True)
    combinations = st.lists(st.sampled_from(COMBINATIONS), min_size=1, unique=True)
    return Space(draw(st.integers(1, 5)), tuple(draw(operations)), tuple(draw(combinations)))


def test_paper_space_has_the_size_and_entropy_of_the_paper():
    space = Space()
    assert len(space.sizes) == 50
    count = math.prod(space.sizes)
    assert count / 1e36 == pytest.approx(5.2, abs=0.05)  # docs/nasnet.md, section 1
    assert math.isqrt(count) / 1e18 == pytest.approx(2.29, abs=0.005)
    assert space.entropy / 2 == pytest.approx(42.3, abs=0.05)
    assert space.entropy == pytest.approx(math.log(count))


def test_block_b_chooses_among_two_plus_b_states():
    assert Space(blocks=3).sizes == (*(2, 2, 13, 13, 2), *(3, 3, 13, 13, 2), *(4, 4, 13, 13, 2)) * 2


@given(spaces(), st.integers(0, 10**6), st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True))
def test_a_mutation_changes_one_decision_and_stays_in_the_space(space, number, place, option):
    before = space.sample(0, number)
    after = space.mutate(before, (place, option))
    assert space.encode(space.decode(after)) == after
    assert sum(a != b for a, b in zip(before, after, strict=True)) == 1


def test_mutations_are_equally_likely_over_decisions_and_over_options():
    space = Space(blocks=1, operations=("identity", "conv_1x1", "conv_3x3"), combinations=("add",))
    before = space.sample(0, 0)
    grid = [(i + 0.5) / 16 for i in range(16)]
    after = [space.mutate(before, (place, option)) for place in grid for option in grid]
    changes = Counter((step, new[step]) for new in after for step in range(10) if new[step] != before[step])
    # 8 decisions have options: 4 inputs one other each, 4 operations two others each.
    assert sorted(changes.values()) == [16] * 8 + [32] * 4


@given(spaces(), st.integers(0, 2**32), st.integers(0, 10**6))
def test_every_draw_is_legal_and_survives_the_round_trip(space, seed, number):
    decisions = space.sample(seed, number)
    assert all(space.mask()[step, option] for step, option in enumerate(decisions))
    genotype = space.decode(decisions)
    assert space.encode(genotype) == decisions
    assert Genotype.from_dict(genotype.to_dict()) == genotype


@given(spaces())
def test_mask_leaves_exactly_the_options_that_exist(space):
    assert tuple(space.mask().sum(axis=1)) == space.sizes
    assert all(row[:size].all() for row, size in zip(space.mask(), space.sizes, strict=True))


@given(genotypes)
def test_genotype_is_encoded_only_inside_the_space(genotype):
    blocks = {len(genotype.normal.blocks), len(genotype.reduction.blocks)}
    cells = (genotype.normal, genotype.reduction)
    unused = all(set(cell.concat) == set(Cell.with_unused_concat(cell.blocks).concat) for cell in cells)
    space = Space(len(genotype.normal.blocks))
    if len(blocks) == 1 and unused:
        assert space.decode(space.encode(genotype)).key == genotype.key
    else:
        with pytest.raises(ValueError, match=r"block|concat"):
            space.encode(genotype)


def test_searched_cells_concatenate_the_unused_states():
    genotype = Space(blocks=2).decode([*(0, 1, 0, 0, 0, 2, 0, 0, 0, 0), *(0, 1, 0, 0, 0, 1, 0, 0, 0, 0)])
    assert genotype.normal.concat == (3,)
    assert genotype.reduction.concat == (2, 3)


def test_decisions_keep_their_order():
    """Every ledger relies on it; the round trip alone would not notice a change in both directions."""
    space = Space(2, ("identity", "conv_1x1", "conv_3x3"), ("add", "concat"))
    genotype = space.decode([*(0, 1, 1, 2, 1), *(2, 0, 0, 1, 0), *(1, 1, 2, 0, 0), *(0, 2, 1, 1, 1)])
    assert genotype.normal.blocks == (
        Block(0, 1, "conv_1x1", "conv_3x3", "concat"),
        Block(2, 0, "identity", "conv_1x1", "add"),
    )
    assert genotype.reduction.blocks == (
        Block(1, 1, "conv_3x3", "identity", "add"),
        Block(0, 2, "conv_1x1", "conv_1x1", "concat"),
    )


def test_draws_of_a_number_never_change():
    """Recorded from the first release: an older ledger continues with the same proposals."""
    assert Space(blocks=1).sample(seed=0, number=0) == (1, 1, 6, 7, 0, 1, 0, 10, 11, 0)
    assert Space(blocks=1).sample(seed=1, number=7) == (0, 0, 7, 1, 0, 0, 0, 8, 2, 0)


def test_space_is_what_its_configuration_says():
    config = SpaceConfig(blocks=3, operations=["conv_1x1", "identity"], combinations=["concat"])
    assert Space.of(config) == Space(3, ("conv_1x1", "identity"), ("concat",))


def test_kinds_of_the_decisions_repeat_with_every_block():
    assert Space(blocks=1).kinds == (0, 0, 1, 1, 2, 0, 0, 1, 1, 2)


def test_uniform_draws_are_uniform():
    space = Space(blocks=2)
    draws = np.array([space.sample(seed=3, number=number) for number in range(4000)])
    for step, size in enumerate(space.sizes):
        counts = np.bincount(draws[:, step], minlength=size)
        chi_square = float(((counts - 4000 / size) ** 2 / (4000 / size)).sum())
        assert chi_square < size + 6 * math.sqrt(2 * size)  # six standard deviations of chi-square


@pytest.mark.parametrize(
    ("decisions", "message"),
    [
        ([0] * 9, "9 decisions, this space has 10"),
        ([2] + [0] * 9, r"decision 0 = 2, must be in 0\.\.1"),
        ([0] * 9 + [-1], r"decision 9 = -1, must be in 0\.\.1"),
    ],
)
def test_wrong_decisions_are_named(decisions, message):
    with pytest.raises(ValueError, match=message):
        Space(blocks=1).decode(decisions)


def test_operation_outside_a_subset_is_named():
    wide, narrow = Space(blocks=1), Space(blocks=1, operations=("identity",))
    genotype = wide.decode([0, 1, 0, 3, 0] + [0] * 5)
    with pytest.raises(
        ValueError, match=r"^normal.blocks\[0\].right_op = 'conv_1x3_3x1', this space has identity"
    ):
        narrow.encode(genotype)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"blocks": 0}, "blocks = 0"),
        ({"operations": ["sep_3x3"]}, "operations holds 'sep_3x3', expected some of identity"),
        ({"operations": []}, "operations = "),
        ({"combinations": ["add", "add"]}, "none twice"),
    ],
)
def test_space_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        SpaceConfig(**settings)
