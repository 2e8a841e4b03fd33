"""`python -m classification.check_data`: each mistake alone is found and named, and a clean set passes."""

import contextlib
import json
import os
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
from annotated_folder import pool_threads
from class_folders import photograph, problems
from PIL import Image

from classification.check_data import check, main
from classification.class_folders import NO_FILE
from classification.config import ImageDataConfig
from classification.data import open_images
from runtime.pictures import HEIC


@pytest.mark.parametrize("workers", [0, 2])
def test_clean_folders_pass_and_are_counted(clean, workers):
    photograph(clean / "train" / "a" / "grey.png", 99)
    (clean / "train" / "a" / ".DS_Store").write_bytes(b"hidden files are nobody's mistake")
    report = check(clean, workers=workers)
    assert pool_threads() == []
    assert report.problems == []
    assert report.counts == {
        "train: classes": 2,
        "train: images": 7,
        "val: classes": 2,
        "val: images": 4,
    }
    assert report.kinds == {"JPEG RGB": 10, "PNG RGB": 1}


def cut(root, share):
    path = root / "train" / "a" / "1.jpg"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("share", [0.5, 0.8, 0.98])
def test_a_truncated_image_is_named(clean, share, workers):
    cut(clean, share)
    ((level, rule, count, names),) = problems(clean, workers=workers)
    assert (level, rule, count) == ("error", "truncated or damaged image", 1)
    assert names[0].startswith("train/a/1.jpg: ")


def test_an_empty_file_is_named_and_is_no_duplicate_of_another(clean):
    for split in ("train", "val"):
        (clean / split / "b" / "1.jpg").write_bytes(b"")
    assert problems(clean) == [("error", "empty file", 2, ["train/b/1.jpg", "val/b/1.jpg"])]


def test_a_file_that_only_has_an_images_name_is_named(clean):
    (clean / "val" / "b" / "page.png").write_text("<html>404</html>")
    rule = "file with an image's name that is no image"
    assert problems(clean) == [("error", rule, 1, ["val/b/page.png"])]


def test_an_unreadable_file_is_named(clean):
    (clean / "val" / "b" / "gone.png").symlink_to(clean / "nowhere.png")
    os.mkfifo(clean / "train" / "a" / "fifo.jpg")
    (clean / "train" / "b" / "itself.jpg").symlink_to("itself.jpg")
    names = ["train/a/fifo.jpg", "train/b/itself.jpg", "val/b/gone.png"]
    assert problems(clean, workers=2) == [("error", NO_FILE, 3, names)]
    with pytest.raises(ValueError) as refusal:
        open_images(ImageDataConfig(name="imagefolder", root=str(clean)), "train")
    assert str(refusal.value) == f"{clean}: error: {NO_FILE}: 2 ({', '.join(names[:2])})"


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("copy", "rule"),
    [
        ("val/a/copy.jpg", "leakage: the same image in both splits"),
        ("train/b/copy.jpg", "the same image in two classes"),
        ("train/a/copy.jpg", "the same image twice in a class"),
    ],
)
def test_duplicates_are_named_together_by_what_they_spoil(clean, copy, rule, workers):
    (clean / copy).write_bytes((clean / "train" / "a" / "2.jpg").read_bytes())
    ((level, found, count, names),) = problems(clean, workers=workers)
    assert (level, found, count) == ("error", rule, 1)
    assert set(names[0].split(" = ")) == {"train/a/2.jpg", copy}


def test_classes_of_one_split_only_are_named_in_both_directions(clean):
    photograph(clean / "train" / "only_here" / "0.jpg", 50)
    photograph(clean / "val" / "only_there" / "0.jpg", 51)
    assert problems(clean) == [
        ("error", "class folder in train that val does not have", 1, ["only_here"]),
        ("error", "class folder in val that train does not have", 1, ["only_there"]),
    ]


LOOP = "link to a folder around it, or to one that another link leads to; not followed"


def test_departures_from_the_layout_are_named(clean):
    photograph(clean / "train" / "stray.jpg", 60)
    photograph(clean / "train" / "a" / "inner" / "0.jpg", 61)
    (clean / "train" / "a" / "loop").symlink_to(clean / "train")
    (clean / "val" / "b" / "notes.txt").write_text("no image")
    (clean / "val" / "b" / "video.mp4").write_bytes(b"no image")
    assert sorted(problems(clean)) == [
        (
            "error",
            "folder inside a class folder; its images count as the outer class's",
            1,
            ["train/a/inner"],
        ),
        ("error", LOOP, 1, ["train/a/loop"]),
        ("left out", "image directly in the split's folder, in no class", 1, ["train/stray.jpg"]),
        ("left out", "no image file", 2, ["val/b/notes.txt", "val/b/video.mp4"]),
    ]


def test_missing_and_empty_folders_are_named(tmp_path):
    assert problems(tmp_path / "x") == [("error", "no such folder", 1, [str(tmp_path / "x")])]
    photograph(tmp_path / "train" / "a" / "0.jpg", 0)
    assert problems(tmp_path) == [("error", "only one class folder", 1, ["train/a"])]
    assert problems(tmp_path, train="train") == [
        ("error", "only one class folder", 1, ["train/a"]),
        ("error", "no such folder; DIR must hold <split>/<class>/<image>", 1, ["val"]),
    ]
    (tmp_path / "train" / "b").mkdir()
    (tmp_path / "test").mkdir()
    assert problems(tmp_path) == [
        ("error", "no image in this class folder", 1, ["train/b"]),
        ("error", "no class folders", 1, ["test"]),
    ]


@pytest.mark.parametrize(
    ("folders", "counts", "taken"),
    [
        (("",), (4,), "no split: a training with data=folder draws its validation images"),
        (("train/",), (4,), "no split: a training with data=folder draws its validation images"),
        (("Training/", "Validation/"), (4, 4), ""),
    ],
)
def test_folders_without_a_split_or_of_other_names_are_checked_as_they_are_trained_on(
    tmp_path, folders, counts, taken
):
    for seed, place in enumerate((f, c, i) for f in folders for c in "ab" for i in (0, 1)):
        photograph(tmp_path / "{}{}/{}.jpg".format(*place), seed)
    (tmp_path / f"{folders[0]}b" / "x.heic").touch()
    report = check(tmp_path)
    assert [count for name, count in report.counts.items() if "images" in name] == list(counts)
    assert (report.taken, [problem.level for problem in report.problems]) == (taken, ["left out"])
    config = ImageDataConfig(name="folder", root=str(tmp_path))
    trained_on = sum(len(open_images(config, split)) for split in ("train", "test"))
    assert trained_on == sum(counts)
    nothing = tmp_path / "nothing"
    (nothing / "a").mkdir(parents=True)
    (nothing / "a").rmdir()
    assert problems(nothing)[0][1].startswith(f"{nothing}: found no folders, expected class folders")


def test_what_is_counted_is_what_a_training_reads(clean):
    photograph(clean / "train" / "a" / "inner" / "0.PNG", 61)
    photograph(clean / "train" / "stray.jpg", 60)
    config = ImageDataConfig(name="imagefolder", root=str(clean))
    counts = check(clean).counts
    for split, folder in (("train", "train"), ("test", "val")):
        images = open_images(config, split)
        assert counts[f"{folder}: images"] == len(images)
        assert counts[f"{folder}: classes"] == len(images.classes)


def test_training_reads_what_is_checked_and_says_the_same(clean, caplog):
    """Hidden folders count for neither, and no link to a folder around is followed, however far around."""
    for hidden in (".ipynb_checkpoints", "__MACOSX", "@eaDir"):
        photograph(clean / "train" / "a" / hidden / "0.jpg", 70)
        photograph(clean / "train" / hidden / "0.jpg", 71)
    (clean / "train" / "a" / "around").symlink_to(clean)
    (clean / "train" / "b" / "class").symlink_to(clean / "train" / "b")
    photograph(clean / "elsewhere" / "far.jpg", 72)
    for name in ("one", "two"):  # each of which would double what is read
        (clean / "train" / "a" / name).symlink_to(clean / "elsewhere")
    (clean / "train" / "b" / "phone.HEIC").write_bytes(b"HEIC")
    images = open_images(ImageDataConfig(name="imagefolder", root=str(clean)), "train")
    assert [os.path.relpath(os.fsdecode(path), clean / "train") for path in images.images] == [
        *("a/0.jpg", "a/1.jpg", "a/2.jpg", "a/one/far.jpg", "b/0.jpg", "b/1.jpg", "b/2.jpg")
    ]
    assert images.labels.tolist() == [0, 0, 0, 0, 1, 1, 1]
    found = check(clean).problems
    inner = "folder inside a class folder; its images count as the outer class's"
    assert [(p.level, p.rule, p.count) for p in found] == [
        ("error", LOOP, 3),
        ("error", inner, 1),
        ("left out", HEIC, 1),
    ]
    assert caplog.messages == [f"{clean}: {problem}" for problem in found]


def test_folders_nested_deeper_than_python_recurses_are_walked(clean):
    folder = clean / "train" / "a"
    with contextlib.chdir(folder):
        for _ in range(1200):
            os.mkdir("d")
            os.chdir("d")
        photograph(Path("deep.jpg"), 80)
    try:
        images = open_images(ImageDataConfig(name="imagefolder", root=str(clean)), "train")
        assert np.bincount(images.labels).tolist() == [4, 3]
    finally:  # pytest's own cleaning up recurses
        subprocess.run(["rm", "-rf", folder], check=True)


def test_where_there_is_nothing_to_check_no_progress_is_shown(tmp_path, capsys):
    assert main([str(tmp_path), "--workers", "0"]) == 1
    assert capsys.readouterr().err == ""


def test_the_command_prints_and_exits_by_what_it_found(clean, capsys):
    folders = [str(clean), "--workers", "0"]
    assert main(folders) == 0
    assert capsys.readouterr().out.splitlines() == [
        *("train: classes: 2", "train: images: 6", "val: classes: 2", "val: images: 4"),
        *("JPEG RGB: 10", "no problems found"),
    ]
    for name in ("x.txt", "y.txt", "z.txt"):
        (clean / "train" / "b" / name).write_text("no image")
    assert main([*folders, "--names", "2"]) == 1
    line = capsys.readouterr().out.splitlines()[-1]
    assert line == "left out: no image file: 3 (train/b/x.txt, train/b/y.txt, ...)"
    assert main([*folders, "--json"]) == 1
    content = json.loads(capsys.readouterr().out)
    assert content["counts"]["train: images"] == 6
    assert content["problems"] == [
        {
            "rule": "no image file",
            "count": 3,
            "names": ["train/b/x.txt", "train/b/y.txt", "train/b/z.txt"],
            "level": "left out",
            "where": "",
        }
    ]
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "--test-folder" in capsys.readouterr().out


def test_names_reach_the_terminal_without_control_characters(clean, capsys):
    (clean / "train" / "a" / "\x1b[2J\n.txt").write_text("no image")
    os.mkdir(clean / "val" / os.fsdecode(b"\xff\x9b31m"))
    assert main([str(clean), "--workers", "0"]) == 1
    printed = capsys.readouterr().out
    assert {one for one in printed if not one.isprintable()} == {"\n"}
    assert r"train/a/\x1b[2J\n.txt" in printed
    assert r"val/\udcff\udc9b31m" in printed


def test_images_of_imagenet_are_in_order_until_they_leak(real_data, tmp_path):
    with zipfile.ZipFile(real_data / "imagenet-sample.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".JPEG"))[:40]
        archive.extractall(tmp_path, names)
    for name in names:
        copy = tmp_path / name.replace("val", "train", 1)
        copy.parent.mkdir(parents=True)
        with Image.open(tmp_path / name) as image:
            image.resize((64, 64)).save(copy, "JPEG")
    report = check(tmp_path)
    assert report.problems == []
    assert report.kinds == {"JPEG RGB": 80}
    (tmp_path / names[7].replace("val", "train", 1)).write_bytes((tmp_path / names[7]).read_bytes())
    ((_, rule, count, _),) = problems(tmp_path)
    assert (rule, count) == ("leakage: the same image in both splits", 1)


def test_the_check_and_the_training_say_which_folders_are_not_used(clean, capsys, caplog):
    (clean / "val").rename(clean / "test")
    config = ImageDataConfig(name="imagefolder", root=str(clean))
    open_images(config, "test")
    assert main([str(clean), "--workers", "0"]) == 0
    assert "folders: " not in capsys.readouterr().out
    taken = "train/ is trained on, test/ is scored on"
    for seed, place in enumerate(("valid/a/0.jpg", "valid/b/0.jpg"), 50):
        photograph(clean / place, seed)
    (clean / "notes").mkdir()
    assert main([str(clean), "--workers", "0"]) == 0
    assert f"folders: {taken}, valid/ is not used\n" in capsys.readouterr().out
    caplog.set_level("INFO")
    open_images(config, "train")
    assert caplog.messages == []
    open_images(config, "test")
    (told,) = caplog.messages
    assert told == f"{clean}: {taken}, valid/ is not used (data.test_folder takes another)"


def test_valid_is_the_test_folder_where_it_is_the_only_one(clean):
    (clean / "val").rename(clean / "valid")
    report = check(clean)
    assert (report.problems, report.taken) == ([], "")
    assert "valid: images" in report.counts
    assert open_images(ImageDataConfig(name="imagefolder", root=str(clean)), "test").source.endswith("valid")
