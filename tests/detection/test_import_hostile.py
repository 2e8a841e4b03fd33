"""Labels that cannot be read, or are hostile: refused at once, with their file."""

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from label_folders import put, refused, run, xml

from detection.data.annotations import read_coco


@pytest.mark.parametrize("name", ["classes.txt", "labels/a.txt", "data.yaml"])
def test_text_that_is_not_utf8_is_named(yolo, capsys, name):
    if name == "classes.txt":
        (yolo / "data.yaml").unlink()
    put(yolo / name, "0 红\n".encode("gbk"))
    assert re.search(rf"{re.escape(name)}: line 1: expected text in UTF-8", refused("yolo", yolo, capsys))


@pytest.mark.parametrize("encoding", ["gb2312", "utf-16", "cp1252", "shift_jis"])
def test_xml_is_read_in_the_encoding_that_it_declares(voc, encoding):
    label = "Übel" if encoding == "cp1252" else "中"
    put(voc / "Annotations" / "a.xml", xml(label=label, encoding=encoding))
    run("voc", voc)
    assert read_coco(voc.parent / "out.json")[0].category_names == [label]


BOMB = '<!DOCTYPE a [<!ENTITY a "xxxxxxxxxx"><!ENTITY b "&a;&a;&a;&a;&a;">]><annotation>&b;</annotation>'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'<?xml version="1.0" encoding="lol"?><annotation/>', "unknown encoding 'lol'"),
        (b'<?xml version="1.0" encoding="rot13"?><annotation/>', "unknown encoding 'rot13'"),
        (b'<?xml version="1.0" encoding="gb2312"?><annotation>\xff</annotation>', "encoding 'gb2312', but"),
        ('<?xml version="1.0" encoding="lol"?><annotation/>'.encode("utf-16"), "encoding"),
        (b"<annotation>" * 100_000, "a.xml:1: more than 64 elements within one another"),
        (BOMB.encode(), "declares a document type"),
        (b"", "not XML: no element found"),
        (
            b"<annotations><image/></annotations>",
            "a.xml:1: the root element is annotations, expected annotation",
        ),
        (
            b"<annotation>\n<Object><name>x</name></Object></annotation>",
            "a.xml:2: element Object, expected object",
        ),
    ],
)
def test_xml_that_cannot_be_read_is_refused_with_its_file(voc, capsys, content, message):
    put(voc / "Annotations" / "a.xml", content)
    told = refused("voc", voc, capsys)
    assert "a.xml:" in told
    assert message in told


def test_a_bomb_of_aliases_takes_no_memory(yolo):
    lines = ["a: &a [x,x,x,x,x,x,x,x,x]"]
    lines += [
        f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]"
        for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    ]
    put(yolo / "data.yaml", "\n".join([*lines, "names: *i"]))
    done = subprocess.run(
        [sys.executable, "-m", "detection.import_labels", "--from", "yolo", str(yolo), "--output", "o.json"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30)),
    )
    assert done.returncode == 1
    assert done.stderr == f"{yolo / 'data.yaml'}: names[0] is a list, expected text\n"


PLACES = ("labels/a.txt", "data.yaml", "images/a.png", "Annotations/a.xml")


@pytest.mark.parametrize(
    ("place", "kind"), [*((p, kind) for p in PLACES for kind in ("FIFO", "link")), ("data.yaml", "folder")]
)
def test_what_is_no_regular_file_is_named_and_not_opened(request, capsys, place, kind):
    name = "voc" if place.endswith("xml") else "yolo"
    root = request.getfixturevalue(name)
    path = root / place
    path.unlink()
    make = {"FIFO": os.mkfifo, "folder": os.mkdir, "link": lambda path: path.symlink_to("nowhere")}
    make[kind](path)
    told = refused(name, root, capsys)
    assert str(path) in told
    found = {"FIFO": "is a FIFO", "folder": "is a folder", "link": "a link to nowhere, which is absent"}
    assert found[kind] in told


def test_a_name_that_is_not_utf8_is_told(yolo, capsys):
    (yolo / "images" / "b.png").rename(yolo / "images" / os.fsdecode(b"\xff.png"))
    assert "file name is not UTF-8: 1\n" in refused("yolo", yolo, capsys)
