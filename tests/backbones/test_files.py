"""Files are whole or absent, and JSON is what a dataclass says or is refused with file, key and value."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from backbones.files import convert_json, write_atomically


def test_what_cannot_take_its_place_leaves_nothing_behind(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken"):
        write_atomically(tmp_path / "taken", "text")
    assert list(tmp_path.iterdir()) == [tmp_path / "taken"]


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


def test_json_becomes_the_dataclass_and_free_keys_stay_free():
    value = {
        "part": {"size": 1, "name": "b"},
        "parts": [{"size": 2, "name": "c"}],
        "free": {"any": [1, {"x": 2}]},
    }
    assert convert_json(value, Whole, "") == Whole(Part(1, "b"), [Part(2, "c")], {"any": [1, {"x": 2}]})
    assert convert_json({"part": {"size": 1}}, Whole, "", defaults=True) == Whole(Part(1))
