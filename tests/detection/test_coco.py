import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO

from detection.data.annotations import read_coco
from detection.data.coco_file import parse


def test_gaps_in_category_ids_become_contiguous_labels_and_come_back(coco_file):
    coco, _ = read_coco(coco_file())
    assert (coco.category_ids, coco.category_names) == ([1, 90], ["person", "toothbrush"])
    assert coco.labels.tolist() == [0, 1, 0]  # grouped by image 7, then 3
    assert [coco.category_ids[label] for label in coco.labels] == [1, 90, 1]


def test_annotations_are_grouped_by_image_in_the_order_of_the_file(coco_file):
    coco, _ = read_coco(coco_file())
    assert coco.image_ids.tolist() == [7, 3]
    assert coco.sizes.tolist() == [[30, 40], [50, 20]]
    assert coco.first.tolist() == [0, 1, 3]
    assert coco.areas.tolist() == [84.0, 150.5, 1000.0]  # of the box where the file says nothing


def test_training_targets_are_cut_at_the_border_and_leave_crowds_out(coco_file):
    coco, _ = read_coco(coco_file())
    boxes, labels = coco.targets(0)
    assert boxes.tolist() == [[35, 5, 40, 13]]
    assert labels.tolist() == [0]
    boxes, labels = coco.targets(1)
    assert boxes.tolist() == [[1, 2, 11, 22]]
    assert labels.tolist() == [1]


def test_images_without_annotations_are_kept(coco_file):
    coco, _ = read_coco(coco_file(annotations=[]))
    assert len(coco) == 2
    assert coco.targets(1)[0].shape == (0, 4)


def test_file_without_the_key_annotations_can_be_predicted_on(coco_file):
    path = coco_file(annotations=lambda old: None)
    assert not read_coco(path)[0].annotated


def test_a_subset_is_the_first_images_with_their_annotations(coco_file):
    coco, _ = read_coco(coco_file())
    part = coco.subset(1)
    assert (part.image_ids.tolist(), part.labels.tolist(), part.first.tolist()) == ([7], [0], [0, 1])


@pytest.mark.parametrize("name", ["train2017", "val2017"])
def test_genuine_coco_reads_as_pycocotools_reads_it(real_data, name, capsys):
    path = real_data / "coco-small" / "annotations" / f"instances_{name}.json"
    coco, problems = read_coco(path)
    reference = COCO(str(path))
    assert problems == []
    assert coco.num_classes == 80
    assert coco.image_ids.tolist() == [image["id"] for image in reference.dataset["images"]]
    for index, image_id in enumerate(coco.image_ids.tolist()):
        expected = reference.imgToAnns[image_id]
        rows = slice(coco.first[index], coco.first[index + 1])
        np.testing.assert_array_equal(
            coco.bboxes[rows], np.array([a["bbox"] for a in expected]).reshape(-1, 4)
        )
        assert [coco.category_ids[i] for i in coco.labels[rows]] == [a["category_id"] for a in expected]
        assert coco.crowd[rows].tolist() == [bool(a["iscrowd"]) for a in expected]


def first(key, value):
    """Replaces one key of the first element."""
    return lambda elements: [{**elements[0], key: value}, *elements[1:]]


def without(key):
    return lambda elements: [{k: v for k, v in elements[0].items() if k != key}, *elements[1:]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": None}, "the key 'images' is missing"),
        ({"categories": {"1": "person"}}, "categories is an object, expected a list"),
        ({"images": []}, "images: empty"),
        ({"categories": []}, "categories: empty"),
        (
            {"images": without("file_name")},
            r"images: file_name is missing, .*: 1 \(images\[0\] \(id 7\)\)",
        ),
        (
            {"annotations": without("bbox")},
            r"bbox is missing, expected four .*annotations\[0\] \(id 11\)\)",
        ),
        (
            {"annotations": first("bbox", [1, 2, 3])},
            r"bbox must be four numbers.*\(id 11\): bbox = \[1, 2, 3\]\)",
        ),
        (
            {"annotations": first("bbox", [1, 2, "3", 4])},
            r"must be four numbers.*bbox = \[1, 2, \"3\", 4\]\)",
        ),
        (
            {"categories": first("id", -1)},
            r"id must be a whole number in 0.*: 1 \(categories\[0\].*: id = -1\)",
        ),
        (
            {"annotations": first("image_id", 8)},
            r"image_id is not among the ids of images: 1 \(annotation 11: image_id = 8\)",
        ),
        (
            {"annotations": first("category_id", 2)},
            r"category_id is not among the ids of categories: 1 \(annotation 11: category_id = 2\)",
        ),
        ({"annotations": first("id", 12)}, r"annotations: id given more than once: 1 \(id = 12\)"),
        ({"images": first("id", 3)}, r"images: id given more than once: 1 \(id = 3\)"),
        ({"categories": first("name", "person")}, r"name given more than once: 1 \(person\)"),
        (
            {"annotations": first("iscrowd", 2)},
            r"neither 0 nor 1: 1 \(annotation 11: iscrowd = 2\)",
        ),
        ({"images": first("width", 0)}, r"is not in 1..2147483647: 1 \(image 7: width = 0, height = 30\)"),
        ({"images": first("height", 2**31)}, r"1 \(image 7: width = 40, height = 2147483648\)"),
        ({"images": first("width", 99999999999)}, r"1 \(image 7: width = 99999999999, height = 30\)"),
        ({"images": first("file_name", "../secret.png")}, r"leaves the folder: 1 \(../secret.png\)"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_its_name_and_key(coco_file, changes, message):
    path = coco_file(**changes)
    with pytest.raises(ValueError, match=message) as refusal:
        read_coco(path)
    assert str(refusal.value).startswith(f"{path}: ")


@pytest.mark.parametrize("text", ["", "{", "[1, 2", '{"images": [{}], ', '{"images": [01]}', "\x00"])
def test_a_file_that_is_not_json_is_refused(tmp_path, text):
    path = tmp_path / "annotations.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"annotations\.json: not JSON"):
        parse(path)


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "null"])
def test_a_box_with_a_number_that_is_none_is_named(coco_file, number):
    path = coco_file()
    path.write_text(path.read_text().replace("10.5", number))
    with pytest.raises(ValueError, match=r"is not finite .*: 1 \(annotation 12: bbox = \[35\.0, "):
        read_coco(path)


def test_a_number_that_no_float_holds_is_named(coco_file):
    path = coco_file()
    path.write_text(path.read_text().replace("10.5", "1e400"))
    with pytest.raises(ValueError, match=r"not finite .*annotation 12: bbox = \[35\.0, 5\.0, inf, 8\.0\]\)"):
        read_coco(path)


def test_elements_of_another_form_are_counted(coco_file):
    path = coco_file(annotations=lambda old: [{**a, "id": "x"} if a["id"] != 12 else a for a in old])
    with pytest.raises(
        ValueError, match=r'id must be a whole number.*: 2 \(annotations\[0\].*id = "x", annotations\[2\]'
    ):
        read_coco(path)


def test_a_file_of_many_annotations_is_read_in_its_order(coco_file):
    count = 20_000  # some chunks of the reader
    boxes = [
        {"id": i, "image_id": 3 + 4 * (i % 2), "category_id": 1, "bbox": [0.5, 1, 2, i]}
        for i in range(1, count + 1)
    ]
    coco, _ = read_coco(coco_file(annotations=boxes))
    assert coco.first.tolist() == [0, count // 2, count]
    assert coco.bboxes[:, 3].tolist() == [*range(1, count + 1, 2), *range(2, count + 1, 2)]


def test_a_list_instead_of_an_object_is_refused(tmp_path):
    path = tmp_path / "annotations.json"
    path.write_text("[]")
    with pytest.raises(ValueError, match="expected an object with images"):
        parse(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.json: no such annotation file"):
        read_coco(tmp_path / "nothing.json")


@pytest.mark.parametrize(
    ("bbox", "rule"),
    [
        ([1, 2, 0, 5], "has no area"),
        ([1, 2, 5, -5], "has a negative width or height"),
        ([20, 2, 5, 5], "outside its image"),
        ([-6, 2, 5, 5], "outside its image"),
    ],
)
def test_boxes_that_cannot_be_trained_on_are_listed_and_left_out(coco_file, bbox, rule):
    coco, problems = read_coco(coco_file(annotations=first("bbox", bbox)))
    left_out = [problem for problem in problems if problem.level == "left out"]
    assert [(rule in problem.rule, problem.count) for problem in left_out] == [(True, 1)]
    assert len(coco.targets(1)[0]) == 0


SIDES = st.sampled_from([-30.0, -1e-9, 0.0, 1e-9, 1e-3, 0.5, 7.0, 19.9999999, 20.0, 49.9999999, 50.0, 90.0])


@given(st.lists(st.tuples(SIDES, SIDES, SIDES, SIDES), min_size=1, max_size=8))
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_training_leaves_out_is_what_the_rules_list(coco_file, bboxes):
    """At sides within a rounding of the border, too: boxes are kept in 32 bits."""
    boxes = [{"id": n, "image_id": 3, "category_id": 1, "bbox": bbox} for n, bbox in enumerate(bboxes, 1)]
    coco, problems = read_coco(coco_file(annotations=boxes))
    left_out = sum(problem.count for problem in problems if problem.level == "left out")
    assert left_out == len(bboxes) - len(coco.targets(1)[0])
    assert coco.has_targets() == (left_out < len(bboxes))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_nan_in_a_name_stays_text(coco_file, encoding):
    path = coco_file(categories=[{"id": 1, "name": 'NaN, "-Infinity" '}, {"id": 90, "name": "b"}])
    path.write_text(path.read_text().replace("150.5", "NaN"), encoding=encoding)
    coco, problems = read_coco(path)
    assert coco.category_names == ['NaN, "-Infinity" ', "b"]
    assert [(problem.count, problem.names) for problem in problems if "area" in problem.rule] == [
        (1, ["annotation 11: area = no finite number"])
    ]
