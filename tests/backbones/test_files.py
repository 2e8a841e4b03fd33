"""Files are whole or absent, and JSON is what a dataclass says or is refused with file, key and value."""

import os
import re
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import backbones
from backbones.files import (
    check_output,
    convert_json,
    existing,
    expanded,
    read_json,
    read_text,
    real_path,
    write_atomically,
)
from backbones.words import printable


def test_what_cannot_take_its_place_leaves_nothing_behind(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken"):
        write_atomically(tmp_path / "taken", "text")
    assert list(tmp_path.iterdir()) == [tmp_path / "taken"]


def test_an_output_is_a_file_in_a_folder_that_takes_files(tmp_path):
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "fifo")
    for name in ("file", "new", "deep/new"):
        check_output(tmp_path / name)
    for name in ("", "new", "deep/new"):
        check_output(tmp_path / name, folder=True)
    for name, folder, message in (
        ("", False, f"{tmp_path} is a folder, expected the name of a file to write"),
        ("fifo", False, f"{tmp_path}/fifo: expected an output file, but this is a FIFO"),
        ("file/a", False, f"{tmp_path}/file/a cannot be written: {tmp_path}/file is not a folder"),
        ("file", True, f"{tmp_path}/file is not a folder"),
    ):
        with pytest.raises(ValueError) as error:
            check_output(tmp_path / name, folder=folder)
        assert str(error.value) == message
    assert sorted(os.listdir(tmp_path)) == ["fifo", "file"]


def test_a_reader_of_the_old_file_goes_on_reading_it(tmp_path):
    path = tmp_path / "deep" / "file"
    write_atomically(path, "old")
    with path.open() as reader:
        write_atomically(path, b"new")
        assert reader.read() == "old"
    assert path.read_text() == "new"


@dataclass
class Part:
    size: int
    name: str = "a"

    def __post_init__(self):
        if self.size < 0:
            raise ValueError(f"size = {self.size}, must not be negative")


@dataclass
class Whole:
    part: Part
    parts: list[Part] = field(default_factory=list)
    free: dict[str, Any] = field(default_factory=dict)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "f.json = [], expected object"),
        ({"part": {"size": 1, "\ud800": "a"}}, r"f.json: expected text in Unicode, found '\ud800'"),
        ({}, "f.json: part is missing"),
        ({"part": {"name": "b"}}, "f.json: part.size is missing"),
        ({"part": {"size": 1}, "parts": [], "free": {}}, "f.json: part.name is missing"),
        ({"part": {"size": "1", "name": "b"}}, "f.json: part.size = '1', expected int"),
        ({"part": {"size": -1, "name": "b"}}, "f.json: part.size = -1, must not be negative"),
        (
            {"part": {"size": 1, "name": "b"}, "parts": [{"size": 2, "name": "c", "extra": 0}], "free": {}},
            "f.json: parts[0].extra is unknown, expected size, name",
        ),
        (
            {"part": {"size": 1, "name": "b"}, "parts": [{"size": None}]},
            "f.json: parts[0].size = None, expected int",
        ),
        ({"part": {"size": 1, "name": "b"}, "parts": [], "free": 3}, "f.json: free = 3, expected object"),
    ],
)
def test_json_of_another_form_is_refused_with_key_and_value(value, message):
    with pytest.raises(ValueError) as refusal:
        convert_json(value, Whole, "f.json: ")
    assert str(refusal.value) == message


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('{"a": [{"b": LONG}]}', "a[0].b"),
        ('{"a": 1e999, "b": -LONG}', "b"),
        ("LONG", "it"),
    ],
)
def test_a_number_of_too_many_digits_is_named_by_its_key(tmp_path, text, place):
    (tmp_path / "f.json").write_text(text.replace("LONG", "1" * 5000))
    told = f"expected a run file in JSON, but {place} is a number of 5000 digits, expected at most 4300"
    with pytest.raises(ValueError) as refusal:
        read_json(tmp_path / "f.json", "run")
    assert str(refusal.value) == f"{tmp_path / 'f.json'}: {told}"


def test_a_number_of_too_many_digits_may_stand_under_a_key_that_comes_again(tmp_path):
    (tmp_path / "f.json").write_text(f'{{"a": {"1" * 5000}, "a": 1}}')
    with pytest.raises(ValueError, match=r"f\.json: expected a run file in JSON, but a key is there twice"):
        read_json(tmp_path / "f.json", "run")


def test_json_becomes_the_dataclass_and_free_keys_stay_free():
    value = {
        "part": {"size": 1, "name": "b"},
        "parts": [{"size": 2, "name": "c"}],
        "free": {"any": [1, {"x": 2}]},
    }
    assert convert_json(value, Whole, "") == Whole(Part(1, "b"), [Part(2, "c")], {"any": [1, {"x": 2}]})
    assert convert_json({"part": {"size": 1}}, Whole, "", defaults=True) == Whole(Part(1))


def make_fifo(path):
    os.mkfifo(path)


def make_socket(path):
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's name may have 108 bytes
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(path.name)
    os.chdir(here)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (os.mkdir, "expected a genotype file, but this is a folder"),
        (make_fifo, "expected a genotype file, but this is a FIFO"),
        (make_socket, "expected a genotype file, but this is a socket"),
        (lambda path: path.symlink_to("/dev/zero"), "expected a genotype file, but this is a device"),
        (lambda path: path.symlink_to("absent"), "no such genotype file: a link to absent, which is absent"),
        (lambda path: path.symlink_to(path.name), "expected a genotype file, but too many levels"),
        (lambda path: None, "no such genotype file"),
    ],
)
def test_what_is_not_a_regular_file_is_named_and_never_opened(tmp_path, make, message):
    make(tmp_path / "one.json")
    with pytest.raises((ValueError, FileNotFoundError), match=f"^{tmp_path}/one.json: {message}"):
        read_json(tmp_path / "one.json", "genotype")


def test_a_link_to_a_regular_file_is_one(tmp_path):
    (tmp_path / "real").write_text("1")
    (tmp_path / "link").symlink_to("real")
    assert existing(tmp_path / "link", "genotype") == tmp_path / "link"


def test_text_is_utf_8_with_or_without_a_mark(tmp_path):
    for data, text in [("grün".encode(), "grün"), ("grün".encode("utf-8-sig"), "grün")]:
        (tmp_path / "one.txt").write_bytes(data)
        assert read_text(tmp_path / "one.txt", "label") == text
    (tmp_path / "one.txt").write_bytes("blau\ngrün".encode("latin-1"))
    with pytest.raises(ValueError, match=r"one.txt: line 2: expected text in UTF-8, found the byte 0xfc"):
        read_text(tmp_path / "one.txt", "label")


def test_a_name_cannot_steer_the_terminal():
    assert printable("grün 日本 \x1b[31m\n\u202e\ud800") == "grün 日本 \\x1b[31m\\n\\u202e\\ud800"


def test_a_link_to_itself_and_the_home_of_an_unknown_user_stay_as_they_are(tmp_path):
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    assert real_path(loop / "a.json") == Path(os.path.realpath(tmp_path)) / "loop" / "a.json"
    assert expanded("~no-such-user/a.json") == Path("~no-such-user/a.json")
    assert expanded("~/a.json") == Path.home() / "a.json"


def test_no_module_uses_what_raises_a_runtime_error_for_these():
    root = Path(backbones.__file__).parents[1]
    folders = ("backbones", "runtime", "classification", "detection", "search", "pipeline", "conf")
    files = [path for folder in folders for path in (root / folder).rglob("*.py")]
    assert len(files) > 100
    using = [path for path in files if re.search(r"\.(resolve|expanduser)\(\)", path.read_text())]
    assert using == []
