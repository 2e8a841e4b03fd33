"""Which images are shown, from which score detections are, where labels lie."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from detection.data.annotations import read_coco
from detection.evaluation.examples import MOST_BOXES, varied
from detection.evaluation.matches import match
from detection.evaluation.results_file import Result
from pipeline.gallery import DrawnBox, balanced_score, gallery, place_labels


def coco(tmp_path, *images):
    """images: lists of (class 0..9, side in pixels, crowd)."""
    annotations = [
        {"image_id": i, "category_id": 3 * label, "bbox": [0, 0, side, side], "iscrowd": crowd}
        for i, boxes in enumerate(images)
        for label, side, crowd in boxes
    ]
    content = {
        "images": [
            {"id": i, "file_name": f"{i}.png", "width": 300, "height": 200} for i in range(len(images))
        ],
        "categories": [{"id": 3 * label, "name": str(label)} for label in range(10)],
        "annotations": [{"id": i, **annotation} for i, annotation in enumerate(annotations)],
    }
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(content))
    return read_coco(path)[0]


def test_chosen_images_show_every_class_size_a_crowd_and_an_empty_one(tmp_path):
    plain = [(0, 50, 0)]
    images = [plain] * 30 + [[(label, 20, 0)] for label in range(10)]
    images += [[], [(0, 120, 0)], [(0, 50, 1), (1, 50, 0)]] + [plain] * 30
    chosen = varied(coco(tmp_path, *images), 13)
    assert len(set(chosen)) == 13
    assert set(range(30, 43)) - set(chosen) <= {30}  # class 0 and small boxes are shown by others
    assert {40, 41, 42} <= set(chosen)


def test_crowded_images_come_only_where_there_are_no_others(tmp_path):
    crowded = [(label % 10, 50, 0) for label in range(MOST_BOXES + 1)]
    images = [crowded, *[[(0, 50, 0)]] * 3]
    assert varied(coco(tmp_path, *images), 3) == [1, 2, 3]
    assert varied(coco(tmp_path, *images), 4) == [0, 1, 2, 3]
    assert varied(coco(tmp_path, *images), 12) == [0, 1, 2, 3]


def test_detections_are_shown_from_the_score_with_the_best_f1(tmp_path):
    annotations = coco(tmp_path, [(1, 50, 0), (2, 100, 0)], [])
    box = {3: (0.0, 0.0, 50.0, 50.0), 6: (0.0, 0.0, 100.0, 100.0), 9: (0.0, 0.0, 10.0, 10.0)}

    def best(*detections):
        found = [Result(0, category, box[category], score) for category, score in detections]
        return balanced_score(np.array([result.score for result in found]), match(annotations, found))

    # F1 is 2 * right / (shown + 2 objects): 2/3, then 2/4, then 4/5
    assert best((3, 0.409), (9, 0.3), (6, 0.209)) == (0.2, 4 / 5)
    assert best((3, 0.409), (9, 0.3), (9, 0.209)) == (0.4, 2 / 3)
    # equal scores stand or fall together
    assert best((3, 0.4), (9, 0.4)) == (0.4, 2 / 4)
    assert best((9, 0.9)) == (0.5, 0.0)
    assert best() == (0.5, 0.0)


def test_a_pair_counts_what_is_right_what_is_wrong_and_what_is_drawn(tmp_path):
    annotations = coco(tmp_path, [(1, 50, 0), (2, 100, 0), (3, 180, 1)], [])
    for number in range(2):
        Image.new("RGB", (300, 200)).save(tmp_path / f"{number}.png")
    detections = [
        (0, 6, (0.0, 0.0, 100.0, 100.0), 0.9),
        (0, 3, (0.0, 0.0, 50.0, 50.0), 0.8),
        (0, 3, (0.0, 0.0, 50.0, 50.0), 0.7),  # found already
        (0, 9, (10.0, 10.0, 20.0, 20.0), 0.6),  # in the crowd
        (0, 6, (0.0, 0.0, 100.0, 90.0), 0.04),  # too low to be drawn
        (1, 3, (0.0, 0.0, 50.0, 50.0), 0.3),
    ]
    shown = gallery(annotations, [Result(*detection) for detection in reversed(detections)], tmp_path)
    # F1 is 2 * right / (shown + 2 objects): 2/3, then 4/4, then 4/5
    assert (shown.score, shown.f1, shown.scores) == (0.8, 1.0, [0.05, 0.25, 0.5, 0.75, 0.8])
    counts = [(p.found, p.wrong, p.shown, p.objects, p.best_score) for p in shown.pairs]
    assert counts == [(2, 0, 2, 2, 0.9), (0, 0, 0, 0, 0.3)]
    drawn = [[(box.name, box.score, box.wrong, box.steps) for box in pair.predicted] for pair in shown.pairs]
    assert drawn == [
        [("2", 0.9, False, 5), ("1", 0.8, False, 5), ("1", 0.7, True, 3), ("3", 0.6, False, 3)],
        [("1", 0.3, True, 2)],
    ]
    truth = [[(box.name, box.crowd, box.wrong) for box in pair.truth] for pair in shown.pairs]
    assert truth == [[("1", False, False), ("2", False, False), ("3", True, False)], []]


@pytest.mark.parametrize(
    ("score", "scores"),
    [
        (0.49, [0.05, 0.25, 0.49, 0.75]),
        (0.55, [0.05, 0.25, 0.5, 0.55, 0.75]),
        (0.3, [0.05, 0.25, 0.3, 0.5, 0.75]),
        (0.07, [0.07, 0.25, 0.5, 0.75]),
    ],
)
def test_scores_that_can_be_chosen_differ_by_something(score, scores, tmp_path):
    annotations = coco(tmp_path, [(1, 50, 0)])
    Image.new("RGB", (300, 200)).save(tmp_path / "0.png")
    found = [Result(0, 3, (0.0, 0.0, 50.0, 50.0), score + 0.001)]
    assert gallery(annotations, found, tmp_path).scores == scores


def test_labels_lie_side_by_side_and_move_where_another_is():
    boxes = [DrawnBox("cat", 0, "") for _ in range(5)]
    length = (6.2 * 3 + 6) * 300 / 250  # of "cat" in pixels of the image
    places = [(0, 100), (length, 100), (0, 100), (0, 100), (0, 100)]
    place_labels(boxes, [(x, y, 20, 50) for x, y in places], 300, 200)
    assert [box.corner for box in boxes] == ["above", "above", "inside", "below", ""]
    assert [box.label for box in boxes] == ["cat"] * 4 + [""]


@given(st.integers(0, 10_000), st.integers(1, 40))
def test_labels_overlap_nowhere_and_stay_in_the_panel(seed, count):
    generator = np.random.default_rng(seed)
    corners = generator.uniform(0, [300, 200], (count, 2))
    sizes = generator.uniform(1, 100, (count, 2))
    bboxes = [(float(x), float(y), float(w), float(h)) for (x, y), (w, h) in zip(corners, sizes, strict=True)]
    boxes = [DrawnBox("class", 0, "", score=0.5) for _ in bboxes]
    place_labels(boxes, bboxes, 300, 200)
    scale, height, length = 250 / 300, 15, 6.2 * len("class 0.50") + 6
    placed: list[tuple[float, float]] = []
    for box, (x, y, w, h) in zip(boxes, bboxes, strict=True):
        if not box.label:
            continue
        corner = box.corner.split()
        left = (x + w) * scale - length if "right" in corner else x * scale
        top = {"above": y * scale - height, "inside": y * scale, "below": (y + h) * scale}[corner[0]]
        assert left >= 0
        assert top >= 0
        assert top + height <= 200 * scale + 1e-9
        assert all(
            abs(left - other) >= length - 1e-9 or abs(top - above) >= height - 1e-9 for other, above in placed
        )
        placed.append((left, top))
