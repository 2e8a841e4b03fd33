"""`data=folder`: own photographs with their labels, in any of the common layouts."""

import os
import re
from pathlib import Path

import pytest
from label_folders import BOX, picture, put, xml
from own_folders import LAYOUTS, NAMES, coco, coco_parts, coco_whole, voc, yolo, yolo_by_lists

from backbones.ranges import ConfigError
from conf.compose import composed
from detection.data.annotations import read_split
from detection.data.config import FolderDataConfig
from detection.evaluation.run import run as evaluate
from detection.train import run as train
from pipeline.report import write_report


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def state(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def opened(root, **options):
    config = FolderDataConfig(root=str(root), **options)
    return [read_split(config, split, images=True) for split in ("train", "val")]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_is_recognised_told_and_read_whole_and_the_folder_is_left_alone(layout, tmp_path, caplog):
    make, told, train_images, val_images = LAYOUTS[layout]
    make(root := tmp_path / "photos")
    before = state(root)
    with caplog.at_level("INFO"):
        (train, train_folder), (val, val_folder) = opened(root)
    assert caplog.messages[-1] == f"{root}: {told}"
    assert (len(train), len(val)) == (train_images, val_images)
    for part, folder in ((train, train_folder), (val, val_folder)):
        assert part.category_names == ["cat"]
        assert part.bboxes.tolist() == [BOX] * len(part)
        assert all((folder / name).is_file() for name in part.file_names)
    assert state(root) == before


def names(root, **options):
    return [sorted(map(str, coco.file_names)) for coco, _ in opened(root, **options)]


def test_the_drawn_split_is_whole_and_comes_again(tmp_path, monkeypatch):
    voc(root := tmp_path / "photos")
    train, val = names(root)
    assert sorted(train + val) == NAMES
    assert names(root) == [train, val]
    written = [coco.path.read_bytes() for coco, _ in opened(root)]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another cache"))
    voc(again := tmp_path / "copy of it" / "photos")
    assert [coco.path.read_bytes() for coco, _ in opened(again)] == written
    assert names(root, split_seed=1) != [train, val]
    assert len(names(root, val_fraction=0.5)[1]) == 5


def test_a_folder_that_changed_is_converted_anew_and_one_that_did_not_is_not(tmp_path, cache):
    voc(root := tmp_path / "photos")
    opened(root)
    (first,) = (cache / "celltransfer").iterdir()
    written = state(first)
    opened(root)
    assert state(cache) == written
    label = root / "annots" / "a.xml"
    kept = label.stat()
    label.write_bytes(xml("dog"))  # of the same length and the same time
    os.utime(label, ns=(kept.st_atime_ns, kept.st_mtime_ns))
    (train, _), (val, _) = opened(root)
    assert train.category_names == val.category_names == ["cat", "dog"]
    picture(root / "images" / "z.png")
    assert sum(map(len, names(root))) == 11
    assert len(list((cache / "celltransfer").iterdir())) == 3


def test_a_conversion_that_fails_leaves_nothing_and_lists_the_faults(tmp_path, cache):
    voc(root := tmp_path / "photos")
    put(root / "annots" / "b.xml", "<annotation>")
    put(root / "annots" / "none.xml", xml(name="none.png"))
    with pytest.raises(ValueError, match=r"(?s)XML cannot be read: 1\n.*labels without an image: 1\n"):
        opened(root)
    assert list((cache / "celltransfer").iterdir()) == []


def refused(root, **options) -> str:
    with pytest.raises(ConfigError) as error:
        opened(root, **options)
    return str(error.value)


def test_several_layouts_are_listed_and_one_can_be_chosen(tmp_path):
    voc(root := tmp_path / "photos")
    yolo(root)
    assert refused(root) == (
        f"data.root = {root} holds several layouts (voc: annots; yolo: labels): choose one, as in "
        "data.layout=voc"
    )
    assert len(opened(root, layout="yolo")[0][0]) == 8


def test_a_folder_of_no_layout_says_what_is_there_and_what_was_expected(tmp_path):
    root = tmp_path / "photos"
    for name in ("cat", "dog"):
        picture(root / name / "a.png")
    message = refused(root)
    assert message.startswith(
        f"data.root = {root}: found 2 images in cat/, dog/; class folders train a classifier (python -m "
        "classification data=folder); expected COCO (annotations/*.json"
    )
    assert refused(root, layout="voc").endswith(
        "expected VOC (JPEGImages/ or images/, and Annotations/*.xml or annots/*.xml)"
    )


def test_parts_that_cannot_be_told_apart_are_refused(tmp_path):
    coco_parts(root := tmp_path / "photos")
    put(root / "annotations" / "instances_train2014.json", coco(NAMES))
    assert refused(root) == (
        f"data.root = {root}: train2014 and train2017 are both for train, expected one of them"
    )


def test_an_image_that_a_list_names_twice_counts_once_and_a_changed_list_is_read_again(tmp_path):
    yolo_by_lists(root := tmp_path / "photos")
    path = root / "set/lists/val.txt"
    put(path, f"images/{NAMES[7]}\n../images/{NAMES[7]}\n{root}/set/images/{NAMES[7]}\n")
    assert opened(root)[1][0].file_names.tolist() == [NAMES[7]]
    put(path, f"images/{NAMES[8]}")
    assert opened(root)[1][0].file_names.tolist() == [NAMES[8]]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("set/train.txt", "./images/no.png", "photos/set/train.txt:1: {root}/set/images/no.png is not there"),
        ("set/train.txt", "\nimages/a.mp4", "set/train.txt:2: 'images/a.mp4' is not the name of an image"),
        ("set/train.txt", " \n", "set/train.txt: no images"),
        (
            "data.yaml",
            "path: set\ntrain: [images, no.txt]\nval: lists/val.txt\nnames: [cat]",
            "data.yaml: train names 'no.txt', and no such folder or list is there",
        ),
    ],
)
def test_what_is_wrong_with_a_list_is_told_by_file_and_line(name, content, message, tmp_path):
    yolo_by_lists(root := tmp_path / "photos")
    put(root / name, content)
    with pytest.raises(ValueError) as error:
        opened(root)
    assert message.format(root=root) in str(error.value)


def test_lists_of_another_machine_leave_the_folders_as_they_are(tmp_path, caplog):
    yolo(root := tmp_path / "photos")
    put(root / "data.yaml", "train: /home/joe/train.txt\nval: /home/joe/val.txt\nnames: [cat]\n")
    assert len(opened(root)[0][0]) == 8


def test_keys_of_other_data_are_refused():
    with pytest.raises(ConfigError, match="val_images belongs to data=coco; data=folder finds"):
        FolderDataConfig(root=".", val_images="val")


def test_a_data_yaml_stands_for_its_folder(tmp_path):
    yolo(root := tmp_path / "photos")
    assert len(opened(root / "data.yaml")[0][0]) == 8


def test_training_evaluation_resume_and_report_see_the_same_split(tmp_path, capsys, caplog):
    voc(root := tmp_path / "photos")
    words = [
        f"data.root={root}",
        f"run_dir={tmp_path / 'run'}",
        "recipe.steps=2",
        "logger=none",
        "data.workers=0",
    ]
    words += ["data.min_sizes=[64]", "data.max_size=128", "data.test_min_size=64", "trainer.device=cpu"]
    config = composed("detection", "experiment=own_photos", *words, "backbone.cells_per_stage=1")
    assert (config.recipe.batch_size, config.recipe.warmup_steps, config.backbone.filters) == (2, 0, 24)
    done = train(config)
    assert (done["images"], done["steps"]) == (2, 2)
    assert "2 steps: far too few for a detector from scratch" in caplog.text
    assert "For 8 training images experiment=own_photos takes recipe.steps=300" in caplog.text
    assert train(config) == done
    weights = tmp_path / "run" / "detector.safetensors"
    scored = composed("detection_evaluate", f"weights={weights}", "data=folder", f"data.root={root}")
    capsys.readouterr()
    assert evaluate(scored)["metrics"] == done["metrics"]
    page = write_report(tmp_path / "run").read_text()
    assert f"data=folder data.root={root}" in page
    assert page.count('<img class="sheet" src="data:image/jpeg;base64,') == 1


def cut_off(root, name):
    path = next(root.rglob(name))
    path.write_bytes(path.read_bytes()[:-30])


@pytest.mark.parametrize("make", [voc, yolo_by_lists, coco_whole], ids=lambda make: make.__name__)
def test_a_damaged_photograph_is_left_out_and_told_before_training(make, tmp_path, caplog):
    make(root := tmp_path / "photos")
    cut_off(root, NAMES[0])
    with caplog.at_level("INFO"):
        train, val = opened(root)
    left = [Path(name).name for split in (train, val) for name in split[0].file_names]
    assert sorted(left) == NAMES[1 : 9 if make is yolo_by_lists else 10]
    assert [message for message in caplog.messages if f"{NAMES[0]}: truncated or damaged image (" in message]
    assert re.search(rf"1 class; damaged and left out: (images/)?{NAMES[0]}$", caplog.messages[-1])


def test_photographs_of_which_none_can_be_decoded_are_refused(tmp_path):
    voc(root := tmp_path / "photos", names=NAMES[:2])
    for name in NAMES[:2]:
        cut_off(root, name)
    with pytest.raises(ValueError, match="images: none of 2 images can be decoded"):
        opened(root)
