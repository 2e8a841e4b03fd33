"""What a command writes to is checked before it works, and what the system refuses is told in our words."""

import csv
import errno
import io
import os
import re
import subprocess
import sys

import pytest
from commands import run_here
from toy_search import toy_config

from search.run import run

COMMANDS = {
    "detection.predict": "none.safetensors {pictures} --output {output}",
    "classification.split": "none --output {output}",
    "detection.split": "none.json --minival 3 --output {output}",
    "detection.import_labels": "--from yolo {pictures} --output {output}/a.json",
    "detection.export": "none.safetensors --format onnx --output {output}/a.onnx",
    "detection.convert": "none.safetensors --engine detectron2 --output {output}/a.safetensors",
    "search.report": "none. --output {output}/a.html",
    "search.status": "none. --csv {output}/a.csv",
    "backbones draw": "none.json --output {output}/a.svg",
    "backbones convert": "--source timm --checkpoint none.pth --output {output}/a.safetensors",
    "backbones export": "none.safetensors --format onnx --output {output}/a.onnx",
    "classification.evaluate": "weights=none.safetensors data=digits output={output}",
    "detection.preview": "run=none. output={output}",
    "detection.evaluate": "weights=none.safetensors data=scenes output={output}",
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("place", "reason"), [("file", "{} is not a folder"), ("/sys/new", "cannot be written: /sys: ")]
)
def test_what_cannot_be_written_is_told_before_what_cannot_be_read(tmp_path, command, place, reason):
    (tmp_path / "file").touch()
    output = tmp_path / place
    words = f"{command} {COMMANDS[command]}".format(pictures=tmp_path, output=output).split()
    done = run_here(*words, cwd=tmp_path)
    assert done.returncode == 1
    assert reason.format(output) in done.stderr
    assert "Errno" not in done.stderr
    assert "none." not in done.stderr
    assert done.stderr.count("\n") == 1
    assert os.listdir(tmp_path) == ["file"]


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_told_by_the_file_that_has_no_room(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", full)
    done = run_here("backbones", "draw", "nasnet_a_cifar", "--output", "a.svg", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "a.svg: no space left on device\n")
    assert os.listdir(tmp_path) == []


TEXTS = ("search.status", "search.report", "backbones draw")
"""Commands whose output is one text."""


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in TEXTS])
def test_standard_output_is_no_place_for_folders_and_binary_files(tmp_path, command):
    words = f"{command} {re.sub('{output}[^ ]*', '-', COMMANDS[command])}".format(pictures=tmp_path).split()
    done = run_here(*words, cwd=tmp_path)
    assert done.returncode == 1
    expected = "- means standard output, expected the name of a f|-: a file of format onnx must end in .onnx"
    assert re.search(expected, done.stderr), done.stderr
    assert os.listdir(tmp_path) == []


def test_texts_are_written_to_standard_output(tmp_path):
    run(toy_config(tmp_path / "search", 5))
    before = sorted(os.listdir(tmp_path / "search"))
    for words, begins in {
        "search.status search --csv -": "number,",
        "search.report search --output -": "<!doctype html>",
        "backbones draw nasnet_a_cifar --output -": "<svg ",
    }.items():
        done = run_here(*words.split(), cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.lstrip().startswith(begins)
        assert done.stdout.splitlines()[-1] != "-"
    assert os.listdir(tmp_path) == ["search"]
    assert sorted(os.listdir(tmp_path / "search")) == before
    printed = run_here("search.status", "search", "--csv", "-", cwd=tmp_path).stdout
    table = list(csv.DictReader(io.StringIO(printed)))
    assert [int(row["number"]) for row in table] == [0, 1, 2, 3, 4]


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path):
    draw = [sys.executable, "-m", "backbones", "draw", "nasnet_a_cifar", "--output", "-"]
    with subprocess.Popen(draw, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as drawing:
        drawing.stdout.close()
        assert (drawing.stderr.read(), drawing.wait(timeout=60)) == ("", 0)
