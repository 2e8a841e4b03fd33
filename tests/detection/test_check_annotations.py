"""The check of annotations: one case per fault, each found alone, counted and named."""

import json

import pytest
from annotated_folder import found, of

from detection.data.config import CocoDataConfig
from detection.data.images import open_split

BEYOND = "annotations: bbox reaches more than 1 px beyond its image and is cut there"


BOX_12, AREA_12 = "annotation 12: bbox = [", "annotation 12: area = "


ANNOTATION_FAULTS = {
    "not JSON": (lambda c: "{", "error", 1, "not JSON", "annotations.json"),
    "a list": (lambda c: "[]", "error", 1, "expected an object with images", "annotations.json"),
    "missing key": (
        lambda c: c.pop("categories") and None,
        "error",
        1,
        "the key 'categories' is missing",
        "categories",
    ),
    "missing box": (
        lambda c: c["annotations"][1].pop("bbox") and None,
        "error",
        1,
        "bbox is missing, expected four numbers",
        "annotations[1] (id 12)",
    ),
    "string for a number": (
        of("images", 1, width="20"),
        "error",
        1,
        "width must be a whole number",
        'images[1] (id 3): width = "20"',
    ),
    "a number of 5000 digits": (
        lambda c: json.dumps(c).replace('"width": 20', f'"width": {"1" * 5000}'),
        "error",
        1,
        "width must be a whole number",
        "images[1] (id 3): width = Infinity",
    ),
    "unknown category": (
        of("annotations", 1, category_id=8),
        "error",
        1,
        "category_id is not",
        "annotation 12: cat",
    ),
    "unknown image": (
        of("annotations", 1, image_id=4),
        "error",
        1,
        "image_id is not among",
        "annotation 12: image_id = 4",
    ),
    "annotation id 0": (
        of("annotations", 1, id=0),
        "warning",
        1,
        "annotations: id is 0",
        "annotation 0: im",
    ),
    "repeated annotation id": (
        of("annotations", 1, id=11),
        "error",
        1,
        "annotations: id given more",
        "id = 11",
    ),
    "repeated image id": (of("images", 2, id=3), "error", 1, "images: id given more than once", "id = 3"),
    "repeated file name": (
        lambda c: c["images"].append({"id": 2, "file_name": "a.png", "width": 40, "height": 30}),
        *("warning", 1, "images: file_name given more than once", "a.png"),
    ),
    "repeated category id": (of("categories", 2, id=9), "error", 1, "categories: id given more", "id = 9"),
    "repeated category name": (
        of("categories", 2, name="cat"),
        "error",
        1,
        "name given more than once",
        "cat",
    ),
    "NaN": (
        of("annotations", 1, bbox=[1, float("nan"), 2, 3]),
        "error",
        1,
        "not finite",
        "annotation 12: bbox = [1.0, nan",
    ),
    "infinite": (
        of("annotations", 1, bbox=[1, 1, float("inf"), 3]),
        "error",
        1,
        "not finite",
        BOX_12,
    ),
    "negative": (
        of("annotations", 1, bbox=[9, 9, -3, 3]),
        "left out",
        1,
        "negative width or",
        BOX_12,
    ),
    "no area": (
        of("annotations", 1, bbox=[9, 9, 0, 3]),
        "left out",
        1,
        "bbox has no area",
        BOX_12,
    ),
    "outside": (
        of("annotations", 1, bbox=[21, 9, 3, 3]),
        "left out",
        1,
        "lies outside",
        BOX_12,
    ),
    "reaching out": (
        of("annotations", 1, bbox=[15, 9, 6.5, 3]),
        "warning",
        1,
        BEYOND,
        BOX_12,
    ),
    "area 0": (of("annotations", 1, area=0), "warning", 1, "area is not positive", AREA_12 + "0"),
    "area 0 of a thin box": (
        of("annotations", 1, area=0, bbox=[2, 2, 1, 20]),
        *("warning", 1, "area is not positive", AREA_12 + "0"),
    ),
    "negative area": (
        of("annotations", 1, area=-2.5),
        "warning",
        1,
        "area is not positive",
        AREA_12 + "-2.5",
    ),
    "infinite area": (
        of("annotations", 1, area=float("inf")),
        "warning",
        1,
        "or not finite",
        AREA_12 + "no",
    ),
    "area null": (of("annotations", 1, area=None), "warning", 1, "or not finite", AREA_12 + "no"),
    "crowd without mask": (
        of("annotations", 2, segmentation=[]),
        "warning",
        1,
        "without a mask",
        "annotation 13",
    ),
    "crowd of empty runs": (
        of("annotations", 2, segmentation={"counts": ""}),
        "warning",
        1,
        "without a m",
        "annotation 13",
    ),
    "crowd of 2": (
        of("annotations", 1, iscrowd=2),
        "error",
        1,
        "iscrowd is neither 0 nor 1",
        "annotation 12: iscrowd = 2",
    ),
    "no annotations": (
        lambda c: c.update(annotations=[]),
        "error",
        1,
        "nothing to train on",
        "annotations.json",
    ),
    "no key annotations": (
        lambda c: c.pop("annotations") and None,
        "error",
        1,
        "nothing to train on",
        "annot",
    ),
    "crowd regions only": (
        lambda c: c.update(annotations=c["annotations"][2:]),
        "error",
        1,
        "nothing to train on",
        "annot",
    ),
    "zero byte": (of("images", 0, file_name="a\0/b.png"), "error", 1, "no regular file", "a\0/b.png"),
    "long name": (of("images", 0, file_name="a" * 300 + "/b.png"), "error", 1, "no regular file", "aaa"),
    "longer name": (
        of("images", 0, file_name="./" * 509 + "./a.png"),
        *("error", 1, "file_name has more than 1024 characters", "././"),
    ),
    "parent folder": (of("images", 0, file_name="../a.png"), "error", 1, "leaves the folder", "../a.png"),
    "hidden parent": (
        of("images", 0, file_name="sub/../../a.png"),
        "error",
        1,
        "leaves the folder",
        "sub/..",
    ),
    "absolute": (of("images", 0, file_name="/etc/a.png"), "error", 1, "leaves the folder", "/etc/a.png"),
    "drive": (of("images", 0, file_name="C:\\a.png"), "error", 1, "leaves the folder", "C:\\a.png"),
    "missing image": (of("images", 0, file_name="sub/a.png"), "error", 1, "file is missing", "sub/a.png"),
    "empty file name": (of("images", 0, file_name=""), "error", 1, "file_name is empty", "image 7"),
    "empty class name": (of("categories", 1, name=" "), "error", 1, "name is empty", "category 1"),
    "images by name": (lambda c: c.update(images={"a": 1}), "error", 1, "images is an object, exp", "ann"),
    "other size": (of("images", 0, width=41), "error", 1, "another size", "a.png: 40x30, annotated 41x30"),
}


@pytest.mark.parametrize("fault", ANNOTATION_FAULTS)
def test_a_fault_of_the_annotations_is_the_only_one_found(data, fault):
    change, level, count, rule, name = ANNOTATION_FAULTS[fault]
    path = data(lambda content: text if isinstance(text := change(content), str) else None)
    (problem,) = found(path)
    assert problem[:2] == (level, count)
    assert rule in problem[2]
    assert str(problem[3]).replace(str(path), "annotations.json").startswith(name)


@pytest.mark.parametrize(
    "change",
    [
        of("annotations", 1, bbox=[11, 9, 10, 3]),  # 1 px beyond the border
        of("images", 0, file_name="./" * 509 + "/a.png"),  # 1,024 characters
    ],
)
def test_what_is_just_allowed_is_no_problem(data, change):
    assert found(data(change)) == []


def test_every_broken_rule_is_told_at_once(data):
    faults = ("missing image", "repeated category id", "unknown image", "no area", "crowd without mask")

    def all_of_them(content):
        content["annotations"].append({"id": 14, "image_id": 7, "category_id": 1, "bbox": [1, 1, 0, 2]})
        for fault in set(faults) - {"no area"}:
            ANNOTATION_FAULTS[fault][0](content)

    told = {(level, rule) for level, _, rule, *_ in found(data(all_of_them))}
    for fault in faults:
        _, level, _, text, _ = ANNOTATION_FAULTS[fault]
        assert any(level == found_level and text in rule for found_level, rule in told), fault
    assert len(told) == len(faults)


@pytest.mark.parametrize("fault", ["unknown category", "NaN", "parent folder", "repeated image id"])
def test_training_refuses_what_the_check_calls_an_error(data, fault):
    path = data(ANNOTATION_FAULTS[fault][0])
    config = CocoDataConfig(root=str(path.parent), train_images="images", train_annotations=path.name)
    with pytest.raises(ValueError, match=r"annotations\.json: (images|annotations): "):
        open_split(config, "train")
