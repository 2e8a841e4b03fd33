"""Parts of a YOLO data set that data.yaml names, as folders or as lists of images."""

import pytest
from label_folders import put, refused, run
from own_folders import NAMES, roboflow_yolo, yolo_by_lists, yolo_by_several_folders, yolo_by_yaml

from detection.data.annotations import read_split
from detection.data.config import FolderDataConfig


@pytest.mark.parametrize(
    "make",
    [yolo_by_lists, yolo_by_several_folders, yolo_by_yaml, roboflow_yolo],
    ids=lambda make: make.__name__,
)
def test_a_part_has_the_images_and_boxes_that_training_reads(make, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    make(root := tmp_path / "photos")
    for split in ("train", "val"):
        coco, _ = read_split(FolderDataConfig(root=str(root)), split, images=True)
        ends = zip(coco.first[:-1], coco.first[1:], strict=True)
        boxes = [coco.bboxes[start:end].tolist() for start, end in ends]
        assert run("yolo", root, "--split", split) == dict(zip(map(str, coco.file_names), boxes, strict=True))


def test_lists_are_not_passed_over_where_no_part_is_chosen(tmp_path, capsys):
    yolo_by_lists(root := tmp_path / "photos")
    told = "data.yaml lists the images of train and val: choose one with --split, as in --split train"
    assert refused("yolo", root, capsys) == f"{root}: {told}\n"
    folders = ["--images", str(root / "set/images"), "--annotations", str(root / "set/labels")]
    assert sorted(run("yolo", root, *folders)) == NAMES


def test_a_line_of_a_list_without_its_image_is_told(tmp_path, capsys):
    yolo_by_lists(root := tmp_path / "photos")
    put(root / "set/train.txt", f"./images/{NAMES[0]}\n./images/none.png\n")
    told = f"{root}/set/train.txt:2: {root}/set/images/none.png is not there"
    assert told in refused("yolo", root, capsys, "--split", "train")


def test_a_part_that_data_yaml_does_not_name_is_a_folder(tmp_path):
    roboflow_yolo(root := tmp_path / "photos")
    put(root / "data.yaml", "train: train/images\nval: valid/images\nnames: [cat]\n")
    assert sorted(run("yolo", root, "--split", "test")) == NAMES[:2]
