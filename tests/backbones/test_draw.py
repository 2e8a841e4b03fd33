"""The drawing is measured: boxes, labels and curves are read back from the SVG."""

import itertools
import re
import xml.etree.ElementTree as ET
from typing import NamedTuple

import pytest
from genotypes import cells
from hypothesis import given, settings
from hypothesis import strategies as st

from backbones.__main__ import main
from backbones.draw import draw, draw_cell
from backbones.genotype import OPERATION_NAMES, Block, Cell, Genotype
from backbones.published import NASNET_A

NS = "{http://www.w3.org/2000/svg}"
WIDTH_PER_LETTER = 0.62
"""Of the font size; wider than the average letter of the usual sans-serif faces (0.5 to 0.6)."""
OPERATION = Block(0, 1, "sep_conv_5x5", "conv_1x7_7x1")
CHAIN = Cell(
    tuple(Block(1 + b, b, "max_pool_7x7", "identity", "concat") for b in range(7)), concat=(0, 1, 3, 8)
)
genotypes = st.builds(Genotype, cells(max_blocks=7), cells(max_blocks=7))


class Box(NamedTuple):
    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: "Box") -> bool:
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )

    def holds(self, x: float, y: float, margin: float = 0.0) -> bool:
        """margin: how far inside the point must be at least."""
        return self.left + margin < x < self.right - margin and self.top + margin < y < self.bottom - margin


def shift_of(group: ET.Element) -> float:
    (shift,) = re.findall(r"translate\(([\d.]+) 0\)", group.attrib["transform"])
    return float(shift)


def box_of(shape: ET.Element, shift: float) -> Box:
    if shape.tag == f"{NS}circle":
        x, y, r = (float(shape.attrib[key]) for key in ("cx", "cy", "r"))
        return Box(x - r + shift, y - r, x + r + shift, y + r)
    x, y, width, height = (float(shape.attrib[key]) for key in ("x", "y", "width", "height"))
    return Box(x + shift, y, x + width + shift, y + height)


def labelled_boxes(svg: str) -> list[tuple[Box, list[ET.Element], float]]:
    """Every box with its texts and the shift of its cell."""
    found = []
    for group in ET.fromstring(svg).findall(f"{NS}g"):
        shift = shift_of(group)
        for parent in group.iter(f"{NS}g"):
            for shape in [*parent.findall(f"{NS}rect"), *parent.findall(f"{NS}circle")]:
                found.append((box_of(shape, shift), parent.findall(f"{NS}text"), shift))
    return found


def curve_points(svg: str):
    """Points along every curve and every wire, endpoints left out."""
    for group in ET.fromstring(svg).findall(f"{NS}g"):
        shift = shift_of(group)
        for path in group.iter(f"{NS}path"):
            numbers = [float(n) for n in re.findall(r"-?[\d.]+", path.attrib["d"])]
            if "C" not in path.attrib["d"]:
                continue
            (x0, y0, x1, y1, x2, y2, x3, y3), then = numbers[:8], numbers[8:]
            for step in range(1, 40):
                t = step / 40
                a, b, c, d = (1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3
                yield a * x0 + b * x1 + c * x2 + d * x3 + shift, a * y0 + b * y1 + c * y2 + d * y3
            for step in range(1, 20) if then else ():
                yield x3 + shift, y3 + (then[1] - y3) * step / 20


def assert_nothing_overlaps(genotype: Genotype) -> None:
    svg = draw(genotype)
    root = ET.fromstring(svg)
    page = Box(0, 0, float(root.attrib["width"]), float(root.attrib["height"]))
    boxes = labelled_boxes(svg)
    blocks = len(genotype.normal.blocks) + len(genotype.reduction.blocks)
    assert len(boxes) == 3 * blocks + 2 * 4  # a cell has 2 inputs, a concatenation and a result
    for (a, _, _), (b, _, _) in itertools.combinations(boxes, 2):
        assert not a.overlaps(b), f"{a} over {b}"
    for box, texts, shift in boxes:
        assert page.holds(box.left, box.top)
        assert page.holds(box.right, box.bottom)
        assert texts
        for text in texts:
            half = len("".join(text.itertext())) * 12 * WIDTH_PER_LETTER / 2
            x, y = float(text.attrib["x"]) + shift, float(text.attrib["y"])
            assert box.holds(x - half, y)
            assert box.holds(x + half, y - 9)
        for upper, lower in itertools.combinations(sorted(float(t.attrib["y"]) for t in texts), 2):
            assert lower - upper >= 12
    for x, y in curve_points(svg):
        assert not any(box.holds(x, y, margin=0.5) for box, _, _ in boxes), f"curve through ({x}, {y})"


@given(genotypes)
@settings(max_examples=60, deadline=None)
def test_no_box_label_or_curve_lies_over_another(genotype):
    assert_nothing_overlaps(genotype)


@pytest.mark.parametrize(
    "genotype",
    [
        NASNET_A,
        Genotype(CHAIN, CHAIN),
        Genotype(Cell((OPERATION,) * 7, tuple(range(9))), Cell((OPERATION,) * 7, (0,))),
        Genotype(Cell.with_unused_concat([OPERATION]), Cell.with_unused_concat([OPERATION])),
    ],
    ids=["nasnet_a", "chain", "seven_side_by_side", "one_block"],
)
def test_extreme_cells_are_drawn_without_overlap(genotype):
    assert_nothing_overlaps(genotype)


@given(genotypes)
@settings(max_examples=25, deadline=None)
def test_every_block_and_operation_appears_once(genotype):
    groups = ET.fromstring(draw(genotype)).findall(f"{NS}g")
    for cell, group in zip((genotype.normal, genotype.reduction), groups, strict=True):
        blocks = {int(g.attrib["data-block"]): g for g in group.iter() if "data-block" in g.attrib}
        assert set(blocks) == set(range(len(cell.blocks)))
        for b, block in enumerate(cell.blocks):
            drawn = [g.attrib["data-operation"] for g in blocks[b].iter() if "data-operation" in g.attrib]
            assert sorted(drawn) == sorted([block.left_op, block.right_op])
            nodes = [s for s in blocks[b].iter() if s.attrib.get("class") in ("add", "concat")]
            assert [node.attrib["class"] for node in nodes] == [block.combine]
            assert ("dead" in blocks[b].attrib["class"]) == (2 + b not in cell.live_states())


def test_operations_are_labelled_in_the_papers_words():
    blocks = [Block(0, 1, name, name) for name in OPERATION_NAMES]
    svg = ET.fromstring(draw_cell(Cell.with_unused_concat(blocks), "All"))
    labels = {
        g.attrib["data-operation"]: " ".join("".join(t.itertext()) for t in g.findall(f"{NS}text"))
        for g in svg.iter()
        if "data-operation" in g.attrib
    }
    assert list(labels) == list(OPERATION_NAMES)
    assert list(labels.values()) == [
        "identity",
        "conv 1×1",
        "conv 3×3",
        "1×3, 3×1",
        "1×7, 7×1",
        "dil 3×3",
        "sep 3×3",
        "sep 5×5",
        "sep 7×7",
        "avg 3×3",
        "max 3×3",
        "max 5×5",
        "max 7×7",
    ]


def test_nothing_outside_is_requested_and_the_ground_is_its_own():
    svg = draw(NASNET_A)
    assert re.findall(r"https?://[^\"]+", svg) == ["http://www.w3.org/2000/svg"]
    assert "url(" not in svg
    root = ET.fromstring(svg)
    ground = next(root.iter(f"{NS}rect"))
    assert [ground.attrib[key] for key in ("width", "height")] == [
        root.attrib[key] for key in ("width", "height")
    ]


def test_a_title_is_text():
    svg = draw_cell(NASNET_A.normal, "<script>")
    assert next(ET.fromstring(svg).iter(f"{NS}text")).text == "<script>"


def test_the_command_writes_svg_and_nothing_else(tmp_path, monkeypatch, capsys):
    (tmp_path / "folder.svg").mkdir()
    for name, expected in (
        ("cells.png", "expected the name of an .svg file"),
        ("folder.svg", "is a folder, expected the name of a file"),
        ("cells", "expected the name of an .svg file"),
    ):
        monkeypatch.setattr(
            "sys.argv", ["backbones", "draw", "nasnet_a_cifar", "--output", f"{tmp_path / name}"]
        )
        with pytest.raises(SystemExit, match=f"{name}:? {expected} to write"):
            main()
    assert [path.name for path in tmp_path.iterdir()] == ["folder.svg"]
    monkeypatch.setattr(
        "sys.argv", ["backbones", "draw", "nasnet_a_cifar", "--output", f"{tmp_path / 'a.svg'}"]
    )
    main()
    assert (tmp_path / "a.svg").read_text() == draw(NASNET_A)
