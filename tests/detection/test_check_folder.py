"""The check of a folder: what training takes by `data=folder data.root=DIR`, with all its splits."""

import json

import pytest
from label_folders import picture, put, xml
from own_folders import LAYOUTS, NAMES, coco, coco_parts, coco_whole, roboflow_yolo, voc, yolo, yolo_by_lists

from detection.check_data import main
from detection.data.annotations import read_split
from detection.data.config import FolderDataConfig
from detection.training.build import open_images


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def checked(root, capsys, *more, code=0):
    """The parts that `--json` prints."""
    assert main([str(root), "--json", "--workers", "0", *more]) == code
    return json.loads(capsys.readouterr().out)["parts"]


def problems(part):
    return [(problem["level"], problem["rule"], problem["count"]) for problem in part["problems"]]


def refusal(root):
    with pytest.raises(ValueError) as error:
        open_images(FolderDataConfig(root=str(root)), seed=0, processes=1)
    return str(error.value)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_folder_that_training_takes_is_checked_whole_and_nothing_is_written(
    layout, tmp_path, capsys, cache
):
    make, told, *images = LAYOUTS[layout]
    make(root := tmp_path / "photos")
    parts = checked(root, capsys)
    used = {name: part for name, part in parts.items() if f"{name} not used" not in told}
    assert [part["counts"]["images"] for part in used.values()] == (
        [sum(images)] if "no split" in told else images
    )
    for part in parts.values():
        assert part["problems"] == []
        assert part["per_category"] == {"cat": part["counts"]["images"]}
    assert not cache.exists()


def test_splits_that_training_does_not_use_are_checked_too(tmp_path, capsys):
    roboflow_yolo(root := tmp_path / "photos")
    put(root / "test/labels/a.txt", "7 0.5 0.5 0.5 0.5")
    parts = checked(root / "data.yaml", capsys, code=1)
    assert list(parts) == ["train", "val", "test"]
    assert problems(parts["test"]) == [("error", "class is none of the names", 1)]


def test_the_text_has_the_layout_and_for_each_fault_of_a_label_its_file_and_line(tmp_path, capsys):
    yolo(root := tmp_path / "photos")
    for name in ("a", "b", "c"):
        put(root / f"labels/{name}.txt", "0 0.5 0.5 0.5 0.5\n0 2 0.5 0.5 0.5")
    assert main([str(root), "--workers", "0", "--names", "2"]) == 1
    text = capsys.readouterr().out
    assert text.startswith(
        f"{root}: YOLO layout, no split\n\nwhole: labels {root}/labels, images {root}/images\n"
    )
    rule = "2 is not in 0..1, expected a share of the image's width or height"
    lines = [f"    {root}/labels/{name}.txt:2: {rule}\n" for name in ("a", "b")]
    told = f"error: number is not in 0..1: 3\n{''.join(lines)}    and 1 more\n"
    assert told in text
    assert "error: number is not in 0..1: 3" in refusal(root)


@pytest.mark.parametrize("make", [voc, yolo_by_lists, coco_whole], ids=lambda make: make.__name__)
def test_a_damaged_image_is_left_out_where_training_leaves_it_out(make, tmp_path, capsys):
    make(root := tmp_path / "photos")
    path = next(root.rglob(NAMES[0]))
    path.write_bytes(path.read_bytes()[:-30])
    first = next(iter(checked(root, capsys, "--decode", code=1).values()))
    assert problems(first) == [("left out", "truncated or damaged image", 1)]
    images = [read_split(FolderDataConfig(root=str(root)), split)[0] for split in ("train", "val")]
    assert sum(map(len, images)) == len(list(root.rglob("*.png"))) - (2 if make is yolo_by_lists else 1)


def test_a_damaged_image_is_an_error_where_training_reads_the_files_as_they_are(tmp_path, capsys):
    coco_parts(root := tmp_path / "photos")
    put(root / "images/val2017" / NAMES[6], b"no image")
    parts = checked(root, capsys, code=1)
    assert problems(parts["train2017"]) == []
    assert problems(parts["val2017"]) == [("error", "file is no image", 1)]


def test_images_of_which_none_can_be_decoded_are_an_error(tmp_path, capsys):
    voc(root := tmp_path / "photos", names=NAMES[:2])
    for name in NAMES[:2]:
        path = root / "images" / name
        path.write_bytes(path.read_bytes()[:-30])
    (whole,) = checked(root, capsys, "--decode", code=1).values()
    assert problems(whole)[1:] == [("error", "none of the images can be decoded", 1)]
    assert "none of 2 images can be decoded" in refusal(root)


def test_categories_that_differ_between_the_splits_are_an_error(tmp_path, capsys):
    coco_parts(root := tmp_path / "photos")
    path = root / "annotations/instances_val2017.json"
    path.write_text(coco(NAMES[6:]).replace('cat"}', 'dog"}'))
    parts = checked(root, capsys, code=1)
    assert problems(parts["val2017"]) == [("error", "categories: not those of train", 1)]
    difference = "the first that differs is (1, 'dog') here, (1, 'cat') there"
    assert difference in parts["val2017"]["problems"][0]["names"][0]
    assert difference in refusal(root)


def test_only_the_images_of_training_need_boxes(tmp_path, capsys):
    voc(root := tmp_path / "photos", "valid", "valid", NAMES[:2])
    voc(root, "train", "train", NAMES[2:4])
    for name in NAMES[:2]:
        put((root / "valid" / name).with_suffix(".xml"), "<annotation></annotation>")
    assert [part["counts"]["boxes"] for part in checked(root, capsys).values()] == [2, 0]
    for name in NAMES[2:4]:
        put((root / "train" / name).with_suffix(".xml"), xml(difficult="1"))
    train = checked(root, capsys, code=1)["train"]
    assert train["problems"][0]["rule"].startswith("annotations: nothing to train on")
    assert "nothing to train on" in refusal(root)


def test_a_folder_of_no_layout_and_one_of_several_are_refused_in_the_words_of_the_command(tmp_path, capsys):
    picture(tmp_path / "none/a.png")
    assert main([str(tmp_path / "none")]) == 1
    assert capsys.readouterr().err.startswith(f"{tmp_path}/none: found 1 image; expected COCO (")
    voc(root := tmp_path / "photos")
    yolo(root)
    assert main([str(root)]) == 1
    told = f"{root} holds several layouts (voc: annots; yolo: labels): choose one, as in --layout=voc\n"
    assert capsys.readouterr().err == told
    assert list(checked(root, capsys, "--layout", "yolo")) == ["whole"]
    assert main([str(tmp_path / "nowhere")]) == 1
    assert capsys.readouterr().err == f"{tmp_path}/nowhere: no such folder\n"


def test_annotations_without_their_images_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([str(put(tmp_path / "ann.json", coco(NAMES)))])
    assert "name the folder of its images, too" in capsys.readouterr().err
