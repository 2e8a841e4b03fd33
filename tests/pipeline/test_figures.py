"""Charts and the picture of the chain."""

import re
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.figures import NODE_WIDTH, ChainNode, chain, confusion, reward_series
from runtime.charts import Series, chart, nice_ticks

SVG = "{http://www.w3.org/2000/svg}"
NODES = [
    ChainNode(f"Stage <{i}>", "12.3 %", ["one", "two", "three"], "backbone.safetensors", done=i < 2)
    for i in range(3)
]


def path_of(drawing, css_class):
    (data,) = re.findall(rf'<path class="[a-z]+ {css_class}" d="([^"]*)"', drawing)
    return data


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_few_even_and_around_the_values(low, span):
    ticks = nice_ticks(low, low + span, 5)
    steps = [b - a for a, b in pairwise(ticks)]
    assert ticks[0] <= low + 1e-6 * span
    assert ticks[-1] >= low + span - 1e-6 * span
    assert 2 <= len(ticks) <= 7
    assert max(steps) == pytest.approx(min(steps), rel=1e-3)


def test_rewards_become_best_so_far_and_a_windowed_mean():
    series, window = reward_series({0: 0.5, 1: None, 2: 0.25, 3: 0.75, 4: 0.25, 5: 0.5, 6: 0.5, 7: 1.0})
    by_name = {one.name: one for one in series}
    assert window == 5
    assert by_name["child"].points == [
        (0, 0.5),
        (2, 0.25),
        (3, 0.75),
        (4, 0.25),
        (5, 0.5),
        (6, 0.5),
        (7, 1.0),
    ]
    assert [y for _, y in by_name["best"].points] == [0.5, 0.5, 0.75, 0.75, 0.75, 0.75, 1.0]
    assert [y for _, y in by_name["mean"].points] == pytest.approx([0.5, 0.375, 0.5, 0.4375, 0.45, 0.45, 0.6])
    assert [x for x, _ in by_name["failed"].points] == [1]


def test_chart_places_points_in_proportion():
    line = Series("it", "line", [(0, 0.0), (5, 0.5), (10, 1.0)])
    drawing = chart([line], 300, 200, label="<l>", x_label="step", percent=True)
    ET.fromstring(drawing)
    (x0, y0), (x1, y1), (x2, y2) = (map(float, p.split()) for p in path_of(drawing, "it")[1:].split("L"))
    assert x1 == pytest.approx((x0 + x2) / 2, abs=0.1)
    assert y1 == pytest.approx((y0 + y2) / 2, abs=0.1)
    assert x2 > x0
    assert y2 < y0
    assert {"0 %", "100 %"} <= set(re.findall(r">([^<>]+)</text>", drawing))


def test_one_point_is_seen_with_an_axis_around_it():
    drawing = chart([Series("it", "line", [(400, 0.25)])], 300, 200, label="l", x_label="step", percent=True)
    ET.fromstring(drawing)
    (dot,) = re.findall(r'<path class="point-dots it" d="M([\d.]+) ([\d.]+)h0"/>', drawing)
    assert 100 < float(dot[0]) < 220
    texts = re.findall(r">([^<>]+)</text>", drawing)
    assert "400" in texts
    assert [float(text.removesuffix(" %")) for text in texts if text.endswith(" %")] == [
        20,
        22,
        24,
        26,
        28,
        30,
    ]
    many = Series("it", "line", [(x, x / 100) for x in range(100)])
    assert "point-dots" not in chart([many], 300, 200, label="l", x_label="step", percent=True)


@pytest.mark.parametrize(("x", "y"), [(0, 0.0), (5, 0.5), (10, 1.0)])
def test_a_mark_and_its_text_stay_within_the_chart(x, y):
    line = Series("it", "line", [(0, 0.0), (5, 0.5), (10, 1.0)])
    mark = Series("best", "mark", [(x, y)], "best AP 12.3 %, step 9,000")
    drawing = chart([line, mark], 400, 200, label="l", x_label="step", percent=True)
    root = ET.fromstring(drawing)
    ring, text = root.find("circle"), root.find("text[@class='mark']")
    places = [p.split() for p in path_of(drawing, "it")[1:].split("L")]
    assert [ring.attrib["cx"], ring.attrib["cy"]] in places
    half = 0.55 * 14 * len(text.text) / 2
    assert float(text.attrib["x"]) - half >= 0
    assert float(text.attrib["x"]) + half <= 400
    assert 14 <= float(text.attrib["y"]) <= 200


def test_failed_children_are_crosses_on_the_ground_line():
    series, _ = reward_series({0: 0.2, 1: None, 2: 0.4, 3: None})
    drawing = chart(series, 300, 200, label="rewards", x_label="child", percent=True)
    crosses = re.findall(r"M[\d.]+ ([\d.]+)l7 7", path_of(drawing, "failed"))
    assert len(crosses) == 2
    grid = [float(y) for y in re.findall(r'class="grid" d="M\d+ ([\d.]+)H', drawing)]
    assert [float(y) + 3.5 for y in crosses] == pytest.approx([max(grid)] * 2, abs=0.1)


@pytest.mark.parametrize("rewards", [{}, {0: None, 1: None}])
def test_search_without_a_reward_has_no_chart(rewards):
    series, _ = reward_series(rewards)
    assert chart(series, 300, 200, label="rewards", x_label="child", percent=True) == ""


def test_single_child_can_be_drawn():
    series, _ = reward_series({0: 0.0})
    drawing = chart(series, 300, 200, label="rewards", x_label="child", percent=True)
    assert ET.fromstring(drawing).tag == "svg"
    assert not re.search(r"nan|inf", drawing)  # the axis has no extent of its own


@pytest.mark.parametrize("direction", ["across", "down"])
def test_chain_labels_fit_their_boxes_and_the_picture(direction):
    root = ET.fromstring(chain(NODES, direction).replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"'))
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    sizes = {"name": 15, "figure": 24, "small": 12, "file": 12}
    for text in root.iter(f"{SVG}text"):
        half = len(str(text.text)) * 0.6 * sizes[text.attrib["class"]] / 2
        centre = float(text.attrib["x"]) + (half if text.attrib.get("text-anchor") == "start" else 0)
        assert centre - half >= 0
        assert centre + half <= width
        assert 0 < float(text.attrib["y"]) < height
        assert text.attrib["class"] == "file" or 2 * half <= NODE_WIDTH
    assert [g.attrib["class"] for g in root.findall(f"{SVG}g") if "node" in g.attrib["class"]] == [
        "node",
        "node",
        "node absent",
    ]


def test_confusion_has_a_field_where_there_are_images_true_classes_downwards():
    root = ET.fromstring(confusion(["a", "b", "c"], [[8, 2, 0], [0, 5, 0], [0, 0, 0]]))
    fields = [(g.find("title").text, g.find("rect").attrib) for g in root.findall("g")]
    assert [title for title, _ in fields] == [
        "a recognised: 8 of 10",
        "a taken for b: 2 of 10",
        "b recognised: 5 of 5",
    ]
    (right, wrong, lower) = (rect for _, rect in fields)
    assert (right["class"], wrong["class"], lower["class"]) == ("right", "wrong", "right")
    side = float(right["width"])
    assert float(wrong["x"]) == float(right["x"]) + side
    assert (wrong["y"], lower["x"]) == (right["y"], wrong["x"])
    assert float(lower["y"]) == float(right["y"]) + side
    assert [float(rect["opacity"]) for _, rect in fields] == pytest.approx([0.83, 0.32, 1.0])
    assert [g.find("text").text for g in root.findall("g")] == ["8", "2", "5"]


@pytest.mark.parametrize("size", [2, 10, 32])
def test_confusion_of_long_names_stays_within_its_picture(size):
    names = [f"{i} <a very long name of a class>" for i in range(size)]
    root = ET.fromstring(confusion(names, [[1] * size] * size))
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    for text in root.findall("text"):
        length = 0.6 * 12 * len(text.text)
        if "translate" in text.attrib.get("transform", ""):
            continue
        x, y = float(text.attrib["x"]), float(text.attrib["y"])
        if text.attrib["text-anchor"] == "end":
            assert x - length >= 0
        if "rotate" in text.attrib.get("transform", ""):
            assert x + length * 0.71 <= width
            assert y - length * 0.71 >= 0
        assert 0 < y < height
    assert len(root.findall("g/text")) == (0 if size == 32 else size**2)
