"""Labels as people have them: none vanishes."""

import re
from pathlib import Path

import pytest
from label_folders import BOX, ROW, picture, put, refused, run, xml

from detection.data.annotations import read_coco


@pytest.mark.parametrize("suffix", ["txt", "TXT", "Txt"])
def test_the_suffix_of_a_label_file_may_have_any_case(yolo, suffix):
    (yolo / "labels" / "a.txt").rename(yolo / "labels" / f"a.{suffix}")
    assert run("yolo", yolo) == {"a.png": [BOX], "b.png": []}


def test_the_suffix_of_an_xml_file_may_have_any_case(voc):
    (voc / "Annotations" / "a.xml").rename(voc / "Annotations" / "a.XML")
    assert run("voc", voc) == {"a.png": [BOX], "b.png": []}


def test_two_label_files_of_one_image_are_told(yolo, capsys):
    put(yolo / "labels" / "a.TXT", ROW)
    told = refused("yolo", yolo, capsys)
    assert "several label files of one image: 1\n" in told
    assert "without an image" not in told


@pytest.mark.parametrize("kind", ["yolo", "voc"])
def test_a_folder_where_a_label_file_is_expected_is_named(request, kind, capsys):
    root = request.getfixturevalue(kind)
    path = root / ("labels/b.txt" if kind == "yolo" else "Annotations/b.xml")
    path.mkdir()
    assert f"{path}: expected a label file, but this is a folder" in refused(kind, root, capsys)


def test_the_element_difficult_is_read_in_any_case(voc):
    put(voc / "Annotations" / "a.xml", xml(difficult="1").replace(b"difficult>", b"Difficult>"))
    run("voc", voc)
    assert read_coco(voc.parent / "out.json")[0].crowd.tolist() == [True]


def test_several_boxes_of_one_object_are_refused(voc, capsys):
    text = xml().decode()
    box = text[text.index("<bndbox>") : text.index("</bndbox>") + len("</bndbox>")]
    put(voc / "Annotations" / "a.xml", text.replace(box, box * 2))
    assert "a.xml:3: object cat with 2 bndbox" in refused("voc", voc, capsys)


def test_all_folders_with_labels_beside_images_are_offered(tmp_path, capsys):
    for split in ("two", "one"):
        picture(tmp_path / "set" / split / "a.png")
        put(tmp_path / "set" / split / "a.xml", xml())
    one, two = tmp_path / "set" / "one", tmp_path / "set" / "two"
    told = refused("voc", tmp_path / "set", capsys)
    assert f"beside the images in {one}, {two}: --images {one} --annotations {one}" in told


def test_one_of_a_thing_is_told_in_the_singular(yolo, capsys):
    put(yolo / "data.yaml", "names: [cat]")
    (yolo / "images" / "b.png").unlink()
    run("yolo", yolo)
    told = capsys.readouterr().out
    assert ": 1 image (0 without objects, 0 of them without a label file), 1 object (0 of" in told
    assert ", 1 category\n" in told


@pytest.mark.parametrize("kind", ["yolo", "voc"])
def test_images_without_a_label_file_are_background_and_counted(request, kind, capsys):
    assert run(kind, request.getfixturevalue(kind)) == {"a.png": [BOX], "b.png": []}
    assert "2 images (1 without objects, 1 of them without a label file)" in capsys.readouterr().out


def test_labels_without_any_object_are_told_by_the_folder_that_was_read(voc, capsys):
    put(voc / "Annotations" / "a.xml", "<annotation><filename>a.png</filename></annotation>")
    assert refused("voc", voc, capsys).endswith(
        f"\n{voc}: no object in the voc labels of 2 images, so there is no category to train on\n"
    )


def test_a_listed_image_without_xml_is_background(voc):
    put(voc / "ImageSets" / "Main" / "train.txt", "b\n")
    assert run("voc", voc, "--split", "train") == {"b.png": []}


@pytest.mark.parametrize(
    ("word", "crowd"),
    [
        ("1", True),
        ("1.0", True),
        ("True", True),
        ("yes", True),
        ("0", False),
        ("false", False),
        ("No", False),
        ("", False),
    ],
)
def test_difficult_is_a_word_or_a_number(voc, capsys, word, crowd):
    put(voc / "Annotations" / "a.xml", xml(difficult=word))
    run("voc", voc)
    coco, _ = read_coco(voc.parent / "out.json")
    assert coco.crowd.tolist() == [crowd]
    assert "difficult" not in capsys.readouterr().err


def test_an_odd_word_for_difficult_is_told_with_its_line(voc, capsys):
    put(voc / "Annotations" / "a.xml", xml(difficult="Unspecified"))
    assert run("voc", voc)["a.png"] == [BOX]
    told = capsys.readouterr().err
    assert "warning: difficult is neither 0 nor 1: 1\n" in told
    assert "a.xml:4: difficult = Unspecified, expected 0 or 1; taken for 0" in told


@pytest.mark.parametrize(("shape", "values"), [("[4, 2]", 8), ("[2, 3]", 6)])
def test_the_first_four_words_of_a_pose_are_its_box(yolo, capsys, shape, values):
    put(yolo / "data.yaml", f"names: [cat]\nkpt_shape: {shape}\n")
    put(yolo / "labels" / "a.txt", f"{ROW}{' 0.1' * values}\n{ROW}\n")
    assert run("yolo", yolo)["a.png"] == [BOX, BOX]
    assert "the same bbox and category_id" in capsys.readouterr().err
    (yolo.parent / "out.json").unlink()
    put(yolo / "labels" / "a.txt", f"{ROW}{' 0.1' * (values - 2)}\n")
    assert f"a.txt:1: {values + 3} words, expected 5 or, by kpt_shape in data.yaml, {values + 5}" in refused(
        "yolo", yolo, capsys
    )


@pytest.mark.parametrize("hidden", ["labels/._a.txt", "labels/.ipynb_checkpoints/x.txt", "._data.yaml"])
def test_hidden_files_of_other_programs_are_passed_over(yolo, hidden):
    put(yolo / hidden, b"\x00\x05\x16\x07\xff")
    assert run("yolo", yolo) == {"a.png": [BOX], "b.png": []}


def test_hidden_files_beside_xml_are_passed_over(voc):
    put(voc / "Annotations" / "._a.xml", b"\x00\x05\x16\x07\xff")
    assert run("voc", voc) == {"a.png": [BOX], "b.png": []}


def test_texts_that_are_no_labels_are_left_out_and_told(yolo, capsys):
    put(yolo / "labels" / "README.roboflow.txt", "exported in 2024\n")
    assert run("yolo", yolo)["a.png"] == [BOX]
    assert "README.roboflow.txt: left out" in capsys.readouterr().err
    put(yolo / "labels" / "c.txt", ROW)
    (yolo.parent / "out.json").unlink()
    assert "labels/c.txt: labels without an image in" in refused("yolo", yolo, capsys)


def test_voc_in_lower_case_folders_beside_the_images_or_elsewhere(voc):
    expected = {"a.png": [BOX], "b.png": []}
    (voc / "JPEGImages").rename(voc / "images")
    (voc / "Annotations").rename(voc / "annotations")
    assert run("voc", voc) == expected
    (voc / "images").rename(voc / "photos")
    (voc / "annotations").rename(voc / "xml")
    more = ["--images", str(voc / "photos"), "--annotations", str(voc / "xml")]
    assert run("voc", voc, *more) == expected
    for path in [*(voc / "photos").iterdir(), *(voc / "xml").iterdir()]:
        path.rename(voc / path.name)
    assert run("voc", voc) == expected


def test_labels_beside_images_are_offered_and_read(yolo, capsys):
    (yolo / "images").rename(yolo / "data")
    (yolo / "labels" / "a.txt").rename(yolo / "data" / "a.txt")
    told = refused("yolo", yolo, capsys)
    data = yolo / "data"
    assert f"labels lie beside the images in {data}: --images {data} --annotations {data}" in told
    assert run("yolo", yolo, "--images", str(data), "--annotations", str(data)) == {
        "a.png": [BOX],
        "b.png": [],
    }


@pytest.mark.parametrize("more", [[], ["--split", "val"]])
def test_the_splits_that_are_there_are_offered(yolo, capsys, more):
    for name in ("images", "labels"):
        (yolo / name).rename(yolo / f"_{name}")
        (yolo / "valid").mkdir(exist_ok=True)
        (yolo / f"_{name}").rename(yolo / "valid" / name)
    assert "it has the splits valid: choose one with --split" in refused("yolo", yolo, capsys, *more)
    assert run("yolo", yolo, "--split", "valid")["a.png"] == [BOX]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("names: [on, off]", ["on", "off"]),
        ("names: [010, 1e3]", ["010", "1e3"]),
        ("names: {0: red, '1': blue}", ["red", "blue"]),
        ("names:\n- ~\n- 'null'", ["~", "null"]),
        ("names: [2024-01-01, 0x1F]\nnc: 2", ["2024-01-01", "0x1F"]),
    ],
)
def test_names_are_the_text_that_was_written(yolo, text, names):
    put(yolo / "data.yaml", text)
    run("yolo", yolo)
    assert read_coco(yolo.parent / "out.json")[0].category_names == names


def test_another_count_of_names_is_told(yolo, capsys):
    put(yolo / "data.yaml", "names: [cat, dog]\nnc: 3")
    run("yolo", yolo)
    assert "data.yaml: nc = 3, but names has 2" in capsys.readouterr().err


def test_class_numbers_of_savetxt_are_read(yolo):
    put(yolo / "labels" / "a.txt", "0.000000000000000000e+00 5e-1 0.5 0.5 0.5\n")
    assert run("yolo", yolo)["a.png"] == [BOX]


def test_every_kind_of_fault_is_told_with_its_own_count(yolo, capsys):
    rows = [*["7 0.5 0.5 0.1 0.1"] * 30, "0 0.5 0.5 0.1", *["0 0.5 nan 0.1 0.1"] * 2, "0 0.5 0.5 0 0.1"]
    put(yolo / "labels" / "a.txt", "\n".join(rows))
    told = refused("yolo", yolo, capsys)
    assert re.findall("^error: (.*)$", told, re.MULTILINE) == [
        "class is none of the names: 30",
        "row has another number of words: 1",
        "number is not in 0..1: 2",
        "box has no area: 1",
    ]
    assert "    and 25 more\n" in told


@pytest.mark.parametrize("folders", ["images/train2017 images/val2017", "train val"])
def test_merged_yolo_splits_are_told_and_how_to_take_one(tmp_path, capsys, folders):
    root, names = tmp_path / "set", folders.split()
    for name in names:
        for image in "ab" if name == names[0] else "c":
            picture(root / name / f"{image}.png")
            put(root / name.replace("images", "labels") / f"{image}.txt", ROW)
    put(root / "data.yaml", "names: [cat]")
    first = Path(names[0]).name
    if "/" in folders:
        assert len(run("yolo", root)) == 3
        told = capsys.readouterr().err
        assert f"warning: {root / 'images'}: splits that were merged (take one with --split, as in" in told
        assert "--split train2017): 2\n    train2017: 2 images\n    val2017: 1 image\n" in told
    else:
        assert "it has the splits train, val: choose one" in refused("yolo", root, capsys)
        run("yolo", root, "--images", str(root), "--annotations", str(root))
        assert f"--images {root / 'train'} --annotations {root / 'train'}): 2" in capsys.readouterr().err
    assert run("yolo", root, "--split", first) == {"a.png": [BOX], "b.png": [BOX]}
    assert "merged" not in capsys.readouterr().err


def test_merged_voc_lists_are_told(voc, capsys):
    put(voc / "ImageSets" / "Main" / "train.txt", "a\n\n")
    run("voc", voc)
    assert "merged" not in capsys.readouterr().err
    put(voc / "ImageSets" / "Main" / "val.txt", "b\n")
    put(voc / "ImageSets" / "Main" / "cat_val.txt", "b -1\n")
    run("voc", voc)
    told = capsys.readouterr().err
    assert "as in --split train): 2\n    train: 1 image\n    val: 1 image\n" in told
    run("voc", voc, "--split", "val")
    assert "merged" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("{}/JPEGImages", "{}/Annotations"),
        ("{}/images", "{}/annotations"),
        ("{}", "{}"),
        ("JPEGImages/{}", "Annotations/{}"),
    ],
)
def test_voc_splits_in_folders_agree_on_the_categories(tmp_path, capsys, images, labels):
    root = tmp_path / "set"
    for split, label in (("train", "dog"), ("valid", "ant")):
        picture(root / images.format(split) / "a.png")
        put(root / labels.format(split) / "a.xml", xml(label))
    for split, label in (("train", 2), ("valid", 1)):
        assert run("voc", root, "--split", split) == {"a.png": [BOX]}
        coco, _ = read_coco(tmp_path / "out.json")
        assert coco.category_names == ["ant", "dog"]
        assert [int(coco.category_ids[row]) for row in coco.labels] == [label]
    (tmp_path / "out.json").unlink()
    assert re.search("(splits|there are) train, valid", refused("voc", root, capsys, "--split", "test"))


@pytest.mark.parametrize(
    ("kind", "label", "image", "near"),
    [
        ("yolo", "C.txt", "c.png", "c.png; another case"),
        ("yolo", "d.txt", "d.heic", "d.heic; a HEIC picture, which is not read: convert it"),
        ("yolo", "c.png.txt", "c.png", "c.png; the name of the labels has its suffix, too"),
        ("yolo", "c.txt", "deep/c.png", "deep/c.png; in another folder"),
        ("voc", "C.xml", "c.png", "c.png; another case"),
        ("voc", "d.xml", "d.heic", "d.heic; a HEIC picture, which is not read: convert it"),
    ],
)
def test_what_is_near_labels_without_an_image_is_told(request, capsys, kind, label, image, near):
    root = request.getfixturevalue(kind)
    images, labels = ("images", "labels") if kind == "yolo" else ("JPEGImages", "Annotations")
    picture(root / images / "c.png")
    (root / images / image).parent.mkdir(exist_ok=True)
    (root / images / "c.png").rename(root / images / image)
    put(root / labels / label, ROW if kind == "yolo" else xml(name=Path(label).stem))
    told = refused(kind, root, capsys)
    assert "labels without an image: 1" in told
    assert f"in {root / images} [near: {near}" in told


@pytest.mark.parametrize("shape", ["17", "[17]", "[17, x]"])
def test_a_wrong_shape_of_poses_is_shown_as_written(yolo, capsys, shape):
    put(yolo / "data.yaml", f"names: [cat]\nkpt_shape: {shape}")
    assert f"kpt_shape = {shape}, expected [points, 2] or" in refused("yolo", yolo, capsys)
