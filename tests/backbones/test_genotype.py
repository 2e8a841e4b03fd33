import json
import time

import pytest
from genotypes import cells, genotypes
from hypothesis import given, settings
from hypothesis import strategies as st

from backbones.genotype import Block, Cell, Genotype, GenotypeError
from backbones.published import NASNET_A


def renumbered(cell: Cell, order: list[int], swaps: list[bool]) -> Cell:
    """The same cell with its blocks in another order of computation and operands exchanged."""
    names = {0: 0, 1: 1} | {2 + b: 2 + place for place, b in enumerate(order)}
    blocks = []
    for b, swap in zip(order, swaps, strict=True):
        block = cell.blocks[b]
        block = Block(names[block.left], names[block.right], block.left_op, block.right_op, block.combine)
        blocks.append(block.swapped() if swap else block)
    return Cell(tuple(blocks), tuple(names[state] for state in reversed(cell.concat)))


@st.composite
def equivalent_cells(draw):
    cell = draw(cells())
    placed: list[int] = []
    while len(placed) < len(cell.blocks):
        ready = [
            b
            for b, block in enumerate(cell.blocks)
            if b not in placed
            and all(state < 2 or state - 2 in placed for state in (block.left, block.right))
        ]
        placed.append(draw(st.sampled_from(ready)))
    swaps = draw(st.lists(st.booleans(), min_size=len(placed), max_size=len(placed)))
    return cell, renumbered(cell, placed, swaps)


@given(genotypes)
def test_json_gives_back_the_genotype(genotype):
    assert Genotype.from_dict(json.loads(json.dumps(genotype.to_dict()))) == genotype


@given(equivalent_cells())
@settings(max_examples=300)
def test_equivalent_cells_have_one_canonical_form(pair):
    cell, other = pair
    assert cell.canonical() == other.canonical()
    assert Genotype(cell, cell).key == Genotype(other, other).key


@given(cells())
def test_the_canonical_form_is_its_own_and_has_only_live_blocks(cell):
    canonical = cell.canonical()
    assert canonical.canonical() == canonical
    assert canonical.live_states() >= set(range(2, 2 + len(canonical.blocks)))
    assert len(canonical.concat) == len(cell.concat)


def test_two_equal_blocks_may_trade_their_consumers():
    twin = Block(0, 1, "identity", "conv_3x3")
    first = Cell(
        (twin, twin, Block(2, 0, "avg_pool_3x3", "identity"), Block(3, 1, "conv_1x1", "identity")), (4, 5)
    )
    second = Cell(
        (twin, twin, Block(3, 0, "avg_pool_3x3", "identity"), Block(2, 1, "conv_1x1", "identity")), (4, 5)
    )
    assert first.canonical() == second.canonical()


def test_another_operation_is_another_key():
    blocks = NASNET_A.normal.blocks
    changed = Cell((Block(0, 1, "sep_conv_7x7", "sep_conv_3x3"), *blocks[1:]), NASNET_A.normal.concat)
    assert Genotype(changed, NASNET_A.reduction).key != NASNET_A.key


def test_the_papers_rule_concatenates_unused_states():
    # The paper's text gives NASNet-A 5 and 3 states where the released code has 6 and 4 (trap T1).
    assert Cell.with_unused_concat(NASNET_A.normal.blocks).concat == (2, 3, 4, 5, 6)
    assert Cell.with_unused_concat(NASNET_A.reduction.blocks).concat == (4, 5, 6)


TWIN = Block(0, 1, "identity", "conv_3x3")


def symmetric(twins):
    """The blocks of a cell of equal blocks, each of which another one reads."""
    readers = [Block(2 + b, 3 + b, "identity", "max_pool_3x3") for b in range(twins)]
    return {"blocks": [dict(vars(block)) for block in [TWIN] * (twins + 1) + readers]}


def test_the_largest_cell_that_is_read_has_its_key_soon():
    chain = Cell(tuple(Block(1 + b, b, "identity", "conv_3x3") for b in range(64)), (65,))
    seven = Cell(
        (*(TWIN,) * 7, *(Block(a, a + 1, "identity", "identity") for a in (2, 4, 6))), (8, 9, 10, 11)
    )
    start = time.process_time()
    assert len(Genotype(chain, seven).key) == 16
    assert time.process_time() - start < 20


def nested(depth):
    return [] if depth == 0 else [nested(depth - 1)]


def nasnet_a_with(change):
    value = json.loads(json.dumps(NASNET_A.to_dict()))
    change(value)
    return value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.update(format=2), "format = 2, this version reads format 1"),
        (lambda v: v.update(format=True), "format = True, this version reads format 1"),
        (lambda v: v.pop("format"), "format = None, this version reads format 1"),
        (lambda v: v.update(orign={}), "json: orign is unknown, expected normal, reduction, origin"),
        (lambda v: v.update(origin="me"), "json: origin = 'me', expected object"),
        (
            lambda v: v["normal"].update(concats=[]),
            "json: normal.concats is unknown, expected blocks, concat",
        ),
        (lambda v: v.pop("reduction"), "json: reduction is missing"),
        (lambda v: v["normal"].pop("concat"), "normal.concat is missing"),
        (lambda v: v["normal"].update(blocks=[]), "normal.blocks is empty"),
        (lambda v: v["normal"].update(blocks="abc"), "json: normal.blocks = 'abc', expected array"),
        (lambda v: v["normal"].update(concat=[]), "normal.concat is empty"),
        (
            lambda v: v["normal"].update(blocks=[vars(TWIN)] * 1500),
            "normal.blocks has 1500 blocks, expected at most 64",
        ),
        (
            lambda v: v["reduction"].update(symmetric(9), concat=list(range(12, 21))),
            "reduction.blocks has 3.63e+06 orders of equal blocks, expected at most 2770 among 19 blocks",
        ),
        (lambda v: v["normal"].update(concat=[2, 9]), "normal.concat holds 9, expected states out of 0..6"),
        (lambda v: v["normal"].update(concat=[2, 2]), "names a state twice"),
        (
            lambda v: v["normal"]["blocks"][3].update(left=6),
            "normal.blocks[3].left = 6, but block 3 can only",
        ),
        (lambda v: v["normal"]["blocks"][0].update(left=True), "normal.blocks[0].left = True, expected int"),
        (lambda v: v["normal"]["concat"].append("2"), "json: normal.concat[6] = '2', expected int"),
        (lambda v: v.update({"k" * 2**21: 1}), "json: kkkk"),
        (
            lambda v: v["normal"]["blocks"][0].update(right="1"),
            "json: normal.blocks[0].right = '1', expected int",
        ),
        (
            lambda v: v["reduction"]["blocks"][1].update(left_op="sep_9x9"),
            "reduction.blocks[1].left_op = 'sep_9x9'",
        ),
        (lambda v: v["normal"]["blocks"][2].update(combine="mul"), "normal.blocks[2].combine = 'mul'"),
        (lambda v: v["normal"]["blocks"][2].pop("combine"), "normal.blocks[2].combine is missing"),
        (
            lambda v: v["normal"]["blocks"][2].update(extra=1),
            "json: normal.blocks[2].extra is unknown, expected left, right, left_op",
        ),
        (lambda v: v["normal"]["blocks"].append(7), "json: normal.blocks[5] = 7, expected object"),
        (lambda v: v["normal"]["blocks"][4].update(left_op="a" * 2**21), "normal.blocks[4].left_op = 'aaa"),
        (
            lambda v: v["normal"].update(concat=[2] * 500_000),
            "normal.concat = [2, 2, 2, 2, 2, 2, ...] names a",
        ),
        (lambda v: v["reduction"]["blocks"][0].update(left=nested(40)), "reduction.blocks[0].left = [[[["),
    ],
)
def test_a_mistake_is_named_with_file_cell_block_and_field(change, message, tmp_path):
    path = tmp_path / "genotype.json"
    path.write_text(json.dumps(nasnet_a_with(change)))
    with pytest.raises(GenotypeError) as error:
        Genotype.load(path)
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)
    assert len(str(error.value)) < 500 + len(str(path)), "a message, not the file"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"3",
        b'{"format": 1',
        b'{"format": ' + b"1" * 5000 + b"}",  # more digits than Python reads
        b"\xff" * 2**21,
        bytes(range(256)) * 2**13,
        b"[" * 100_000,
        b'{"format": 1, "origin": ' + b'{"a":' * 50_000,
        b"[" * 100 + b"]" * 100,
    ],
    ids=[
        *("empty", "number", "cut off", "digits", "one byte", "all bytes", "nested lists", "nested objects"),
        "a hundred lists",
    ],
)
def test_junk_is_refused_with_the_file_name(content, tmp_path):
    path = tmp_path / "genotype.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"genotype\.json") as error:
        Genotype.load(path)
    assert len(str(error.value)) < 300 + len(str(path))


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -1e400])
def test_a_number_that_no_later_file_could_hold_is_refused(number, tmp_path):
    path = tmp_path / "genotype.json"
    value = NASNET_A.to_dict() | {"origin": {"curve": [0.5, number]}}
    path.write_text(json.dumps(value))
    with pytest.raises(GenotypeError) as error:
        Genotype.load(path)
    assert str(error.value) == f"{path}: origin holds a number that is not finite, which JSON cannot say"


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such genotype file"):
        Genotype.load(tmp_path / "genotype.json")


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "genotype.json"
    NASNET_A.save(path)
    broken = Genotype(NASNET_A.normal, NASNET_A.reduction, {"reward": float("nan")})
    with pytest.raises(ValueError, match="Out of range float"):
        broken.save(path)
    assert Genotype.load(path) == NASNET_A
    assert list(tmp_path.iterdir()) == [path]
