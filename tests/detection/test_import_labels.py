"""Labels of YOLO and Pascal VOC as COCO annotations."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detection.check_data import check
from detection.data.annotations import read_coco, read_split
from detection.import_labels import main


def picture(path: Path, size=(40, 20)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)


@pytest.fixture
def yolo(tmp_path):
    """Two classes; a.png with two boxes, deep/b.png with a polygon, c.png with nothing."""
    root = tmp_path / "yolo"
    for name in ("a.png", "deep/b.png", "c.png"):
        picture(root / "images" / name)
    (root / "labels" / "deep").mkdir(parents=True)
    (root / "labels" / "a.txt").write_text("1 0.5 0.5 0.25 0.5\n\n0 0.05 0.1 0.2 0.2\n")
    (root / "labels" / "deep" / "b.txt").write_text("0 0.25 0.5 0.75 0.5 0.5 1.0\n")
    (root / "data.yaml").write_text("path: .\nnames:\n  0: cat\n  1: dog\n")
    return root


VOC = """<annotation>
  <filename>{name}.jpg</filename>
  <size><width>40</width><height>20</height><depth>3</depth></size>
  {objects}
</annotation>
"""
OBJECT = (
    "<object><name>{name}</name><difficult>{difficult}</difficult>"
    "<bndbox><xmin>{0}</xmin><ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax></bndbox></object>"
)


@pytest.fixture
def voc(tmp_path):
    """a.png with a dog and a difficult cat, b.png with a bird; only a.png is of the split train."""
    root = tmp_path / "voc"
    (root / "Annotations").mkdir(parents=True)
    objects = {
        "a": OBJECT.format(11, 6, 30, 15, name="dog", difficult=0)
        + OBJECT.format(1, 1, 40, 20, name="cat", difficult=1),
        "b": OBJECT.format(0, 1, 5, 5, name="bird", difficult=0),
    }
    for name, found in objects.items():
        picture(root / "JPEGImages" / f"{name}.png")
        (root / "Annotations" / f"{name}.xml").write_text(VOC.format(name=name, objects=found))
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / "ImageSets" / "Main" / "train.txt").write_text("a  1\n")
    return root


def run(kind: str, root: Path, *more: str) -> tuple[int, Path]:
    output = root.parent / "annotations.json"
    return main(["--from", kind, str(root), "--output", str(output), *more]), output


def boxes(path: Path) -> dict[str, list]:
    """By file name: category, box and whether it is a crowd."""
    coco, _ = read_coco(path)
    rows = [
        (coco.category_names[label], box, crowd)
        for label, box, crowd in zip(coco.labels, coco.bboxes.tolist(), coco.crowd.tolist(), strict=True)
    ]
    return {str(name): rows[coco.first[i] : coco.first[i + 1]] for i, name in enumerate(coco.file_names)}


def assert_says(capsys, message: str) -> None:
    assert re.search(message, capsys.readouterr().err)


def test_yolo_labels_become_boxes_in_pixels_cut_at_the_border(yolo):
    code, output = run("yolo", yolo)
    assert code == 0
    assert boxes(output) == {
        "a.png": [("dog", [15, 5, 10, 10], False), ("cat", [0, 0, 6, 4], False)],
        "c.png": [],
        "deep/b.png": [("cat", [10, 10, 20, 10], False)],
    }
    (polygon,) = [a for a in json.loads(output.read_text())["annotations"] if a["segmentation"]]
    assert (polygon["segmentation"], polygon["area"]) == ([[10, 10, 30, 10, 20, 20]], 100)


def test_labels_below_links_are_read_and_a_loop_of_links_ends(yolo, tmp_path, capsys):
    (yolo / "labels" / "deep").rename(tmp_path / "elsewhere")
    (yolo / "labels" / "deep").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "around").symlink_to(yolo / "labels")
    code, output = run("yolo", yolo)
    assert code == 0
    assert boxes(output)["deep/b.png"] == [("cat", [10, 10, 20, 10], False)]
    (tmp_path / "elsewhere" / "orphan.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    assert run("yolo", yolo)[0] == 1
    assert_says(capsys, r"labels/deep/orphan\.txt: labels without an image")


def test_one_label_file_of_two_images_is_told(yolo, capsys):
    picture(yolo / "images" / "a.jpg")
    code, output = run("yolo", yolo)
    assert code == 1
    assert not output.exists()
    assert_says(capsys, r"labels/a\.txt: labels of two images, .*a\.jpg and .*a\.png")


def test_voc_boxes_count_from_1_and_difficult_objects_become_crowd_regions(voc):
    code, output = run("voc", voc)
    assert code == 0
    assert boxes(output) == {
        "a.png": [("dog", [10, 5, 20, 10], False), ("cat", [0, 0, 40, 20], True)],
        "b.png": [("bird", [0, 0, 5, 5], False)],
    }


def test_voc_labels_that_fit_two_images_are_told_unless_they_name_one(voc, capsys):
    picture(voc / "JPEGImages" / "a.jpg")
    labels = voc / "Annotations" / "a.xml"
    named = labels.read_text()
    labels.write_text(named.replace("a.jpg", "a"))
    assert run("voc", voc)[0] == 1
    assert_says(capsys, r"a\.xml: labels of .*a\.jpg or of .*a\.png")
    labels.write_text(named)
    code, output = run("voc", voc)
    assert code == 0
    assert set(boxes(output)) == {"a.jpg", "b.png"}


def test_voc_labels_of_the_same_image_are_told(voc, capsys):
    labels = voc / "Annotations"
    (labels / "again.xml").write_text((labels / "a.xml").read_text())
    assert run("voc", voc)[0] == 1
    assert_says(capsys, r"again\.xml: labels of .*a\.png, as .*a\.xml has them, too")


def test_a_byte_order_mark_is_no_part_of_a_name(yolo):
    (yolo / "data.yaml").unlink()
    (yolo / "classes.txt").write_text("cat\ndog\n", encoding="utf-8-sig")
    (yolo / "labels" / "a.txt").write_text("1 0.5 0.5 0.25 0.5\n", encoding="utf-8-sig")
    code, output = run("yolo", yolo)
    assert code == 0
    assert boxes(output)["a.png"] == [("dog", [15, 5, 10, 10], False)]


def test_parts_of_a_voc_set_agree_on_the_categories(voc):
    code, output = run("voc", voc, "--split", "train")
    coco, _ = read_coco(output)
    assert (code, coco.file_names.tolist()) == (0, ["a.png"])
    assert coco.category_names == ["bird", "cat", "dog"]


@pytest.mark.parametrize("layout", ["images/train", "train/images"])
def test_a_part_of_a_yolo_set_has_names_below_its_own_folder(tmp_path, layout):
    root = tmp_path / "set"
    picture(root / layout / "a.png")
    labels = root / layout.replace("images", "labels")
    labels.mkdir(parents=True)
    (labels / "a.txt").write_text("0 0.5 0.5 1 1")
    (root / "classes.txt").write_text("cell\n")
    code, output = run("yolo", root, "--split", "train")
    assert code == 0
    assert read_coco(output)[0].bboxes.tolist() == [[0, 0, 40, 20]]
    assert read_coco(output)[0].file_names.tolist() == ["a.png"]


@pytest.mark.parametrize(("kind", "images"), [("yolo", "images"), ("voc", "JPEGImages")])
def test_what_is_written_passes_the_check(request, kind, images):
    root = request.getfixturevalue(kind)
    _, output = run(kind, root)
    assert check(output, root / images, decode=True).problems == []


def test_scenes_come_back_from_yolo_as_they_were(scenes, tmp_path):
    coco, folder = read_split(scenes, "train")
    root = tmp_path / "yolo"
    (root / "labels").mkdir(parents=True)
    (root / "images").symlink_to(folder)
    (root / "classes.txt").write_text("\n".join(coco.category_names))
    for index, name in enumerate(coco.file_names):
        rows = slice(coco.first[index], coco.first[index + 1])
        height, width = coco.sizes[index]
        shares = coco.bboxes[rows] / [width, height, width, height]
        shares[:, :2] += shares[:, 2:] / 2
        lines = [
            f"{label} " + " ".join(f"{s:.6f}" for s in row)
            for label, row in zip(coco.labels[rows], shares, strict=True)
        ]
        (root / "labels" / f"{Path(str(name)).stem}.txt").write_text("\n".join(lines))
    code, output = run("yolo", root)
    back, _ = read_coco(output)
    assert code == 0
    assert back.file_names.tolist() == coco.file_names.tolist()
    assert back.labels.tolist() == coco.labels.tolist()
    np.testing.assert_allclose(back.bboxes, coco.bboxes, atol=1e-3)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2 0.5 0.5 0.1 0.1", "a.txt:2: class 2, expected one of 0..1"),
        ("0.5 0.5 0.5 0.1 0.1", "a.txt:2: class 0.5, expected one of 0..1"),
        ("-1 0.5 0.5 0.1 0.1", "a.txt:2: class -1, expected one of 0..1"),
        ("dog 0.5 0.5 0.1 0.1", "a.txt:2: class dog, expected one of 0..1"),
        ("0 0.5 0.5 0.1", "a.txt:2: 4 words, expected 5"),
        ("0 0.5 0.5 0.1 0.1 0.1 0.1 0.9", "a.txt:2: 8 words, expected 5"),
        ("0 0.5 0.5 0.1 0.1 0.9", "6 words, expected 5 .*; is the last one a confidence"),
        ("0,0.5,0.5,0.1,0.1", "1 word, expected 5 .*found commas, expected blanks"),
        ("0 20 10 5 5", "a.txt:2: 20 is not in 0..1"),
        ("0 0.5 nan 0.1 0.1", "a.txt:2: nan is not in 0..1"),
        ("0 0.5 half 0.1 0.1", "a.txt:2: 'half' is no number"),
        ("0 0.5 0.5 0 0.1", "a.txt:2: the box .* has no area"),
    ],
)
def test_a_wrong_line_of_yolo_is_told_by_file_and_line(yolo, capsys, line, message):
    (yolo / "labels" / "a.txt").write_text(f"0 0.5 0.5 0.1 0.1\n{line}\n")
    code, output = run("yolo", yolo)
    assert code == 1
    assert not output.exists()
    assert_says(capsys, message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.replace("<size>", "<size", 1), r"a\.xml:3: not XML: not well-formed"),
        (lambda t: '<!DOCTYPE a [<!ENTITY b "boom">]>' + t, r"a\.xml: declares a document type"),
        (lambda t: t.replace("<width>40", "<width>41"), r"a\.xml:3: size 41x20, but .*a\.png has 40x20"),
        (lambda t: t.replace("<name>dog</name>", ""), r"a\.xml:4: object without a name"),
        (lambda t: t.replace("<xmin>11", "<xmin>x"), r"a\.xml:4: object dog: xmin = x, expected a number"),
        (lambda t: t.replace("<xmax>30", "<xmax>10"), r"a\.xml:4: object dog has no area"),
        (lambda t: t.replace("bndbox", "box"), r"a\.xml:4: object dog without bndbox"),
    ],
)
def test_a_wrong_xml_file_is_told_by_file_and_line(voc, capsys, change, message):
    path = voc / "Annotations" / "a.xml"
    path.write_text(change(path.read_text()))
    code, output = run("voc", voc)
    assert code == 1
    assert not output.exists()
    assert_says(capsys, message)


def test_every_fault_of_a_set_is_told_at_once(yolo, capsys):
    (yolo / "labels" / "a.txt").write_text("7 0.5 0.5 0.1 0.1\n8 0.5 0.5 0.1 0.1\n")
    (yolo / "labels" / "orphan.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    (yolo / "images" / "c.png").write_bytes(b"no image")
    assert run("yolo", yolo)[0] == 1
    told = capsys.readouterr().err
    for fault in (
        "a.txt:1: class 7",
        "a.txt:2: class 8",
        "orphan.txt: labels without",
        "c.png: cannot be read as an image",
    ):
        assert fault in told


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("names: {0: cat, 2: dog}", r"data\.yaml: names has the key '2', expected 0, 1"),
        ("names: 3", r"data\.yaml: names = '3', expected a list"),
        ("names: [cat, cat]", r"data\.yaml: class name 'cat' is empty or given more than once"),
        ("names: [cat, '']", r"data\.yaml: class name '' is empty or given more than once"),
        ("names: ['', '']", r"data\.yaml: no class names"),
        ("names: [", r"data\.yaml: line 1: not YAML"),
        ("names:\n  0: cat\n  1:dog\n", r"data\.yaml: line 4: not YAML: could not find expected ':'"),
        ("names: [[cat], dog]", r"data\.yaml: names\[0\] is a list, expected text"),
        ("names: {0: cat, '0': dog}", r"data\.yaml: names: the key '0' is given more than once"),
        ("names: &x [*x]", r"data\.yaml: names\[0\] is a list, expected text"),
        ("names: " + "[" * 100_000, r"data\.yaml: line 1: not YAML: nested too deeply"),
        ('names: ["\\uD800"]', r"data\.yaml: class name .* is no text in Unicode"),
        ('names: ["\\UFFFFFFFF"]', r"data\.yaml: not YAML"),
        ("names: [cat, dog]\nkpt_shape: [4, 7]", r"kpt_shape = \[4, 7\], expected \[points, 2\]"),
        ("nc: 2", "no class names, expected data.yaml"),
    ],
)
def test_wrong_class_names_are_told(yolo, capsys, names, message):
    (yolo / "data.yaml").write_text(names)
    assert run("yolo", yolo)[0] == 1
    assert_says(capsys, message)


@pytest.mark.parametrize("kind", ["yolo", "voc"])
def test_another_layout_is_told(tmp_path, capsys, kind):
    (tmp_path / "empty").mkdir()
    assert run(kind, tmp_path / "empty")[0] == 1
    assert_says(capsys, "expected")


def test_a_listed_image_that_is_not_there_is_told(voc, capsys):
    (voc / "ImageSets" / "Main" / "train.txt").write_text("a\nz\n")
    assert run("voc", voc, "--split", "train")[0] == 1
    assert_says(capsys, r"train\.txt:2: z has no image in")
