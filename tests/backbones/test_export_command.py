"""`python -m backbones export`: what is written where, and what is refused."""

import os
import re
import sys

import pytest
import torch
from exported_networks import BRIEF, answers, assert_same, images, network

from backbones import save
from backbones.__main__ import main
from backbones.export import export, replace_files
from backbones.formats import SUFFIXES
from backbones.network import NASNet
from celltransfer import install_command


@pytest.fixture
def brief() -> NASNet:
    return network(BRIEF, stem="cifar")


def test_exporting_leaves_the_network_as_it_was(tmp_path, brief):
    brief.train()
    before = {name: value.clone() for name, value in brief.state_dict().items()}
    export(brief, tmp_path / "net.pt2", "torch")
    assert brief.training
    assert all(parameter.requires_grad for parameter in brief.parameters())
    assert all(torch.equal(value, before[name]) for name, value in brief.state_dict().items())


def test_a_file_that_answers_otherwise_than_the_network_is_not_written(tmp_path, brief):
    (tmp_path / "net.pt2").write_text("old")
    with torch.no_grad():
        brief.classifier.bias[2] = float("nan")
    with pytest.raises(
        ValueError, match=r"net\.pt2 was not written: its logits differ from the network's by nan"
    ):
        export(brief, tmp_path / "net.pt2", "torch")
    assert [file.name for file in tmp_path.iterdir()] == ["net.pt2"]
    assert (tmp_path / "net.pt2").read_text() == "old"


def test_an_openvino_model_never_meets_the_weights_of_another(tmp_path, monkeypatch):
    """The old .xml beside the new .bin would be read without complaint."""
    written = tmp_path / "written"
    written.mkdir()
    for suffix in (".xml", ".bin"):
        (tmp_path / f"net{suffix}").write_text("old")
        (written / f"net{suffix}").write_text("new")
    replace = os.replace

    def without_room_for_the_model(source, target):
        if str(target).endswith(".xml"):
            raise OSError("no space left")
        replace(source, target)

    monkeypatch.setattr(os, "replace", without_room_for_the_model)
    with pytest.raises(OSError, match="no space left"):
        replace_files(written, tmp_path / "net.xml")
    assert [(file.name, file.read_text()) for file in tmp_path.glob("net.*")] == [("net.bin", "new")]


def test_the_command_writes_beside_the_weights_or_where_it_is_told(tmp_path, brief, monkeypatch, capsys):
    weights = tmp_path / "backbone.safetensors"
    save(brief, weights)
    monkeypatch.setattr("sys.argv", ["backbones", "export", str(weights), "--format", "torch"])
    main()
    output = tmp_path / "deep" / "net.pt2"
    arguments = ["--format", "torch", "--output", str(output), "--image-size", "40", "--features"]
    monkeypatch.setattr("sys.argv", ["backbones", "export", str(weights), *arguments])
    main()
    assert capsys.readouterr().out.split() == [str(tmp_path / "backbone.pt2"), str(output)]
    assert list(answers(tmp_path / "backbone.pt2", images(brief, 2))) == ["logits"]
    x = images(brief, 2, size=40)
    found, expected = answers(output, x), brief.features(x)
    assert list(found) == list(expected)
    for name in expected:
        assert_same(found[name], expected[name].detach())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.safetensors", "--format", "onnx"], "absent.safetensors: no such backbone file"),
        (
            ["FILE", "--format", "onnx", "--output", "FOLDER.onnx"],
            "FOLDER.onnx is a folder, expected the name of",
        ),
        (
            ["FILE", "--format", "openvino", "--output", "net.xml"],
            "net.bin is a folder, expected the name of",
        ),
        (["FILE", "--format", "openvino", "--output", "net.onnx"], "of format openvino must end in .xml"),
        (
            ["FILE", "--format", "torch", "--image-size", "2"],
            "images of 2x2 px, the network needs at least 3",
        ),
    ],
)
def test_a_mistake_is_one_message(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    save(network(BRIEF), "FILE.safetensors")
    for name in ("FOLDER.onnx", "net.bin"):
        (tmp_path / name).mkdir()
    arguments = [argument.replace("FILE", "FILE.safetensors") for argument in arguments]
    monkeypatch.setattr("sys.argv", ["backbones", "export", *arguments])
    with pytest.raises(SystemExit, match=message):
        main()
    assert not [path for path in tmp_path.iterdir() if path.is_file() and path.suffix != ".safetensors"]


def test_a_size_below_one_pixel_is_no_size(tmp_path, brief, monkeypatch, capsys):
    with pytest.raises(ValueError, match="image_size = 0, must be a whole number from 1 on"):
        export(brief, tmp_path / "net.pt2", "torch", image_size=0)
    monkeypatch.setattr("sys.argv", ["backbones", "export", "x", "--format", "torch", "--image-size", "0"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "argument --image-size: 0, must be" in capsys.readouterr().err


def test_an_unknown_format_is_answered_with_the_known(tmp_path, brief, monkeypatch, capsys):
    with pytest.raises(ValueError, match="format = 'tflite', expected one of onnx, openvino, torch"):
        export(brief, tmp_path / "net.tflite", "tflite")
    monkeypatch.setattr("sys.argv", ["backbones", "export", "FILE", "--format", "tflite"])
    with pytest.raises(SystemExit):
        main()
    assert "invalid choice: 'tflite' (choose from 'onnx', 'openvino', 'torch')" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("format", "missing"), [("onnx", "onnxscript"), ("onnx", "onnxruntime"), ("openvino", "openvino")]
)
def test_what_a_format_needs_is_asked_for_before_any_work(tmp_path, brief, monkeypatch, format, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    message = re.escape(
        f"format {format} needs {missing}, which is not installed: {install_command('export')}"
    )
    with pytest.raises(ModuleNotFoundError, match=message):
        export(brief, tmp_path / f"net{SUFFIXES[format]}", format)
    assert not list(tmp_path.iterdir())


def test_a_fused_network_is_refused(tmp_path, brief):
    with pytest.raises(ValueError, match="export the one that it was fused from"):
        export(brief.fuse(), tmp_path / "net.pt2", "torch")
