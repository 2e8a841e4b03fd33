"""The check of a data set: files that are missing, hostile or no files at all, and their names."""

import os

import pytest
from annotated_folder import found, of

from detection.check_data import main
from detection.data.annotations import read_coco
from detection.data.config import CocoDataConfig
from detection.data.images import open_split


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("A.png", "a.png; another case"),
        ("a.PNG", "a.png; another case"),
        ("Sub/c.jpg", "sub/c.jpg; another case"),
        ("sub\\c.jpg", "sub/c.jpg; backslashes"),
        ("images/a.png", "a.png; one folder too many: images/"),
        ("data\\images\\a.png", "a.png; backslashes, 2 folders too many: data/images/"),
        ("c.jpg", "sub/c.jpg; in another folder"),
        ("a.jpeg", "a.png; another suffix"),
        ("%61.png", "a.png; URL-encoded"),
        ("https://x.org/data/a.png?raw=1", "a.png; a URL"),
        ("z.png", None),
    ],
)
def test_a_missing_file_is_shown_with_what_is_near(data, name, near):
    path = data(of("images", 0, file_name=name))
    expected = f"{name} [near: {near}]" if near else name
    assert found(path) == [("error", 1, "image file is missing", expected)]
    config = CocoDataConfig(root=str(path.parent), train_images="images", train_annotations=path.name)
    with pytest.raises(FileNotFoundError) as refusal:
        open_split(config, "train")
    assert str(refusal.value) == f"{path.parent / 'images'}: image file is missing: 1 ({expected})"


def test_a_name_that_leaves_the_folder_is_shown_with_what_is_near(data):
    (problem,) = found(data(of("images", 0, file_name="..\\upload\\a.png")))
    assert problem[2:] == (
        "images: file_name leaves the folder",
        "..\\upload\\a.png [near: a.png; backslashes, 2 folders too many: ../upload/]",
    )
    (problem,) = found(data(of("images", 0, file_name="/upload/a.png")))
    assert problem[3] == "/upload/a.png [near: a.png; 2 folders too many: /upload/]"


@pytest.mark.parametrize("kind", ["FIFO", "folder", "link"])
def test_an_image_that_is_no_regular_file_is_named_by_check_and_training(data, kind):
    path = data()
    image = path.parent / "images" / "a.png"
    image.unlink()
    {"FIFO": os.mkfifo, "folder": os.mkdir, "link": lambda path: path.symlink_to("nowhere")}[kind](image)
    ((level, count, rule, name),) = found(path)
    assert (level, count) == ("error", 1)
    assert (rule, name.partition(": ")[0]) == (
        "image file is missing" if kind == "link" else "image is no regular file",
        "a.png",
    )
    config = CocoDataConfig(root=str(path.parent), train_images="images", train_annotations=path.name)
    with pytest.raises((ValueError, FileNotFoundError), match=rule):
        open_split(config, "train")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested too deeply to be read"),
        ('{"images": ' + "[" * 100_000, "nested too deeply to be read"),
        ('{"images": [{"id": ' + "9" * 5000 + "}]}", "id must be a whole number"),
        ('{"images": [{"id": 1, "file_name": "\\ud800"}]}', "half of a surrogate pair"),
    ],
)
def test_hostile_json_is_refused_with_the_files_name(data, text, message):
    path = data(lambda content: text)
    assert any(message in problem[2] for problem in found(path))
    with pytest.raises(ValueError, match=message) as refusal:
        read_coco(path)
    assert str(refusal.value).startswith(f"{path}: ")


def test_a_fifo_instead_of_the_annotations_is_named(data):
    path = data()
    path.unlink()
    os.mkfifo(path)
    (problem,) = found(path)
    assert problem[2] == "expected an annotation file, but this is a FIFO"


def test_names_are_printed_without_control_characters(data, capsys):
    path = data(of("categories", 1, name="\x1b[2Jcat"))
    assert main([str(path), str(path.parent / "images"), "--workers", "0"]) == 0
    assert "\\x1b[2Jcat  2\n" in capsys.readouterr().out
