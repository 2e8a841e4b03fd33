"""The check of a data set: what it counts, tells and prints."""

import json

import pytest
from annotated_folder import found, of

from detection.check_data import check, main
from detection.data.annotations import read_coco
from detection.data.config import CocoDataConfig
from detection.data.images import open_split


def test_a_good_data_set_has_no_problems_and_its_classes_are_counted(data):
    path = data()
    report = check(path, path.parent / "images", decode=True)
    assert report.problems == []
    assert report.per_category == {"dog": 1, "cat": 2, "gnu": 0}
    assert report.counts == {
        "images": 3,
        "images without boxes": 1,
        "boxes": 3,
        "crowd regions": 1,
        "categories": 3,
        "categories without boxes": 1,
    }


def test_missing_file_and_folder_are_told(data, tmp_path):
    (problem,) = check(tmp_path / "nothing.json", tmp_path).problems
    assert "no such annotation file" in problem.rule
    (problem,) = check(data(), tmp_path / "nowhere").problems
    assert problem.rule == "no such image folder"


def test_offenders_are_counted_and_the_first_are_named(data):
    def many(content):
        box = {"image_id": 7, "category_id": 1, "bbox": [1, 1, 0, 4]}
        content["annotations"] += [box | {"id": number} for number in range(100, 130)]

    path = data(many)
    assert found(path, names=2) == [
        (
            *("left out", 30, "annotations: bbox has no area"),
            *(f"annotation {number}: bbox = [1.0, 1.0, 0.0, 4.0]" for number in (100, 101)),
        )
    ]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda c: None, 0),
        (of("annotations", 1, id=0), 0),
        (of("annotations", 1, bbox=[9, 9, 0, 3]), 1),
        (of("annotations", 1, image_id=4), 1),
    ],
)
def test_the_exit_code_and_json_say_the_same(data, capsys, change, code):
    path = data(change)
    assert main([str(path), str(path.parent / "images"), "--json", "--workers", "0"]) == code
    content = json.loads(capsys.readouterr().out)
    assert list(content) == ["annotations", "images", "counts", "per_category", "problems"]
    assert any(problem["level"] != "warning" for problem in content["problems"]) == bool(code)


def test_the_text_names_rules_counts_and_classes(data, capsys):
    path = data(of("annotations", 1, image_id=4))
    assert main([str(path), str(path.parent / "images"), "--workers", "0"]) == 1
    told = capsys.readouterr().out
    rule = "annotations: image_id is not among the ids of images"
    assert f"error: {path}: {rule}: 1 (annotation 12: image_id = 4)\n" in told
    assert "  cat  2\n" in told


def test_all_kinds_of_fault_are_told_in_one_run_by_check_and_training(data, capsys):
    """Each with file, element, key, value, what was expected and its own count."""

    def change(content):
        content["images"][0]["file_name"] = "gone.png"
        content["annotations"] += [
            {"id": 20, "image_id": 7, "category_id": "1", "bbox": [1, 1, 2, 2]},
            {"id": 21, "image_id": 7, "category_id": "9", "bbox": [1, 1, -2, 2], "iscrowd": None},
            {"id": 22, "image_id": 99, "category_id": 9, "bbox": [1, True, "2"]},
            {"id": "x", "image_id": 7, "category_id": 8, "bbox": [1, 1, 2, 2]},
        ]

    path = data(change)
    folder = path.parent / "images"
    number = "annotations: id must be a whole number in 0..9223372036854775807"
    errors = [
        (path, number, '1 (annotations[6] (id "x"): id = "x")'),
        (
            *(path, "annotations: category_id must be a whole number"),
            '2 (annotations[3] (id 20): category_id = "1", annotations[4] (id 21): category_id = "9")',
        ),
        (
            *(path, "annotations: bbox must be four numbers: x, y, width, height in pixels"),
            '1 (annotations[5] (id 22): bbox = [1, true, "2"])',
        ),
        (path, "annotations: iscrowd must be 0 or 1", "1 (annotations[4] (id 21): iscrowd = null)"),
        (
            *(path, "annotations: category_id is not among the ids of categories"),
            "1 (annotations[6]: category_id = 8)",
        ),
        (
            *(path, "annotations: image_id is not among the ids of images"),
            "1 (annotation 22: image_id = 99)",
        ),
        (folder, "image file is missing", "1 (gone.png)"),
    ]
    expected = {f"{where}: {rule}: {offenders}" for where, rule, offenders in errors}
    assert main([str(path), str(folder), "--workers", "0"]) == 1
    told = capsys.readouterr().out.splitlines()
    assert {line.removeprefix("error: ") for line in told if line.startswith("error: ")} == expected
    (left_out,) = (line for line in told if line.startswith("left out: "))
    assert left_out.endswith("negative width or height: 1 (annotation 21: bbox = [1.0, 1.0, -2.0, 2.0])")
    config = CocoDataConfig(root=str(path.parent), train_images="images", train_annotations=path.name)
    with pytest.raises(ValueError, match="gone") as refusal:
        open_split(config, "train")
    assert set(str(refusal.value).splitlines()) == expected


@pytest.mark.parametrize(
    ("change", "column", "expected"),
    [
        (of("annotations", 0, iscrowd=False), "crowd", [False, False, True]),
        (of("annotations", 2, iscrowd=True), "crowd", [False, False, True]),
        (of("annotations", 0, image_id=7.0, category_id=1.0, id=11.0), "labels", [0, 2, 0]),
        (of("images", 0, id=7.0, width=40.0, height=30.0), "sizes", [[30, 40], [50, 20], [8, 16]]),
        (of("categories", 1, name=5), "category_names", ["5", "gnu", "dog"]),
    ],
)
def test_values_are_read_as_pycocotools_reads_them(data, change, column, expected):
    path = data(change)
    assert found(path) == []
    read = getattr(read_coco(path)[0], column)
    assert (read if isinstance(read, list) else read.tolist()) == expected


WARNINGS = {
    "shares": (
        lambda c: [a.update(bbox=[0.1, 0.2, 0.5, 0.25]) for a in c["annotations"]] and None,
        *("shares of the sides, where pixels are expected?", 3, "annotation 11: bbox = [0.1, 0.2, 0.5, "),
    ),
    "equal boxes": (
        lambda c: c["annotations"].extend({**c["annotations"][0], "id": i} for i in (20, 21)),
        *("the same bbox and category_id as of", 2, "annotation 20: bbox = [1.0, 2.0, 10.0, 20.0]"),
    ),
    "parent": (
        lambda c: [category.update(supercategory="gnu") for category in c["categories"]] and None,
        *("no boxes and the parent (supercategory) of others", 1, "category 4: name = gnu, parent of"),
    ),
    "case": (of("categories", 2, name="DOG"), "names differ in case alone", 2, "dog"),
}


@pytest.mark.parametrize("kind", WARNINGS)
def test_what_looks_wrong_is_a_warning_with_its_count(data, kind):
    change, rule, count, name = WARNINGS[kind]
    ((level, found_count, found_rule, found_name, *_),) = found(data(change))
    assert (level, found_count) == ("warning", count)
    assert rule in found_rule
    assert found_name.startswith(name)


def test_boxes_that_differ_in_image_category_or_place_are_not_equal(data):
    def change(content):
        first = {"image_id": 7, "category_id": 1, "bbox": [1, 2, 10, 20]}
        others = ({"category_id": 9}, {"image_id": 3}, {"bbox": [1, 2, 10, 20.5]})
        content["annotations"] += [{**first, **other, "id": i} for i, other in enumerate(others, 20)]

    assert found(data(change)) == []
