"""`data=folder`: class folders with or without a split."""

import pytest
from PIL import Image

from classification.config import ImageDataConfig
from classification.data import open_images
from classification.split import main
from conf.compose import composed


def fill(folder, images=10, classes=("cat", "dog")):
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(images):
            Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / name / f"{number}.png")


def opened(root, **options):
    config = ImageDataConfig(name="folder", root=str(root), **options)
    return [open_images(config, split) for split in ("train", "test")]


def files(images):
    return {bytes(file).decode() for file in images.images}


def test_what_is_left_out_is_told_once(tmp_path, caplog):
    fill(tmp_path)
    (tmp_path / "cat" / "x.heic").touch()
    asked = composed("classification", "experiment=own_classes", f"data.root={tmp_path}", "run_dir=r")
    for split in ("train", "test"):
        open_images(asked.data, split)
    assert [message for message in caplog.messages if "HEIC" in message] == [caplog.messages[0]]


def test_without_a_split_each_class_gives_its_share(tmp_path, caplog):
    fill(tmp_path)
    with caplog.at_level("INFO"):
        train, test = opened(tmp_path)
    assert caplog.messages == [
        f"{tmp_path}: class folders, no split: 20 % drawn for validation by seed 0 "
        "(4 of 20 images); 2 classes"
    ]
    assert train.classes == test.classes == ["cat", "dog"]
    assert test.labels.tolist() == [0, 0, 1, 1]
    assert len(files(train) | files(test)) == 20
    again = opened(tmp_path)
    assert [files(part) for part in again] == [files(train), files(test)]
    assert files(opened(tmp_path, split_seed=1)[1]) != files(test)
    assert len(opened(tmp_path, val_fraction=0.5)[1]) == 10


@pytest.mark.parametrize(
    ("folders", "told"),
    [
        (
            ("train", "valid", "test"),
            "trained on train, scored on valid (6 images); test not used; 2 classes",
        ),
        (("training", "test"), "trained on training, scored on test (6 images); 2 classes"),
    ],
)
def test_a_split_is_taken_as_it_is(folders, told, tmp_path, caplog):
    for folder in folders:
        fill(tmp_path / folder, images=3)
    with caplog.at_level("INFO"):
        train, test = opened(tmp_path)
    assert caplog.messages == [f"{tmp_path}: class folders: {told}"]
    assert train.source.endswith(folders[0])
    assert len(train) == len(test) == 6


@pytest.mark.parametrize("inner", ["unpacked", "unpacked/train", "val"])
def test_the_only_folder_stands_for_what_is_in_it(inner, tmp_path):
    fill(tmp_path / inner)
    train, test = opened(tmp_path)
    assert (len(train), len(test), train.classes) == (16, 4, ["cat", "dog"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, "found no folders, expected class folders, <class>/<image> or <split>/"),
        (
            lambda root: fill(root, 1, ("annots", "images")),
            r"found annots/, images/, expected .*; images with labelled objects train a detector \(python",
        ),
        (
            lambda root: [fill(root / name, 1) for name in ("train", "val", "valid")],
            "val and valid are for the same, expected one of them",
        ),
    ],
)
def test_what_is_no_class_folders_is_refused(make, message, tmp_path):
    make(tmp_path)
    with pytest.raises(ValueError, match=message):
        opened(tmp_path)


@pytest.mark.parametrize("link", [[], ["--link"]])
def test_the_command_writes_the_split_that_training_draws(link, tmp_path, capsys):
    fill(root := tmp_path / "photos")
    new = tmp_path / "new"
    assert main([str(root), "--output", str(new), *link]) == 0
    assert capsys.readouterr().out == f"{new}/train: 16 images\n{new}/val: 4 images\n"
    drawn = {file.removeprefix(f"{root}/") for file in files(opened(root)[1])}
    written = {str(path.relative_to(new / "val")): path for path in (new / "val").rglob("*.png")}
    assert written.keys() == drawn
    assert all(path.is_symlink() == bool(link) for path in written.values())
    assert all(path.read_bytes() == (root / name).read_bytes() for name, path in written.items())
    assert len(opened(new)[1]) == 4


def test_the_command_refuses_what_is_split_and_overwrites_nothing(tmp_path, capsys):
    for part in ("train", "val"):
        fill(tmp_path / "photos" / part, 2)
    new = tmp_path / "new"
    assert main([str(tmp_path / "photos"), "--output", str(new)]) == 1
    assert capsys.readouterr().err == f"{tmp_path}/photos is split already: train and val\n"
    assert not new.exists()
    assert main([str(tmp_path / "photos" / "train"), "--output", str(tmp_path / "photos")]) == 1
    assert capsys.readouterr().err == f"{tmp_path}/photos holds files, expected a new folder\n"
