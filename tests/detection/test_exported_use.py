"""Exported files in use: `python -m detection.speed` times them, `detection.predict` finds by them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_detectors import small_c4_detector
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from backbones.runtimes import openvino_core, save_openvino
from backbones.speed_table import synthetic
from detection.data.coco_file import CategoryEntry
from detection.data.sizing import ShortestEdge
from detection.deployment.program import described, traced, write
from detection.detector import Detector
from detection.speed import main, model_of, torchvision_step

REPOSITORY = Path(__file__).resolve().parents[2]
RUNTIMES = {".onnx": "ONNX Runtime", ".xml": "OpenVINO", ".pt2": "torch.export"}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Of one detector that looks at pictures with a short side of 96 px: its weights, and exported files."""
    folder = tmp_path_factory.mktemp("speed")
    detector = small_c4_detector([CategoryEntry(3, "a"), CategoryEntry(7, "b")])
    detector.save(folder / "net.safetensors", {})
    trace, said = traced(detector), described(detector, "")
    for format, suffix in (("onnx", ".onnx"), ("torch", ".pt2")):
        write(trace, folder / f"net{suffix}", format, said)
    save_openvino(openvino_core().read_model(folder / "net.onnx"), folder / "net.xml", said)
    return folder


@pytest.mark.parametrize(
    ("suffix", "size"), [(".onnx", None), (".onnx", (96, 160)), (".xml", (96, 160)), (".pt2", None)]
)
def test_every_runtime_finds_what_the_weights_find_in_the_same_picture(files, suffix, size):
    picture = synthetic(*(size or (80, 160)))[1]  # both become multiples of 32 px, which nobody pads
    detector = Detector.load(files / "net.safetensors", "cpu")
    detector.input_size = ShortestEdge((96,), 192)
    (expected,) = detector(picture)
    model = model_of(str(files / f"net{suffix}"), "f32", size)
    assert model.engine == RUNTIMES[suffix]
    weights = model_of(str(files / "net.safetensors"), "f32", size).load(1)(picture)[0]
    for found, tolerance in ((weights, 0), (model.load(1)(picture), 1e-3)):
        assert len(expected["labels"]) == len(found["labels"]) > 5
        assert np.abs(np.asarray(found["boxes"]) - expected["boxes"].numpy()).max() <= tolerance
        assert np.abs(np.asarray(found["scores"]) - expected["scores"].numpy()).max() <= tolerance


def test_weights_in_bf16_are_less_exact(files):
    picture = synthetic(96, 96)[0]
    exact, rough = (
        model_of(str(files / "net.safetensors"), precision).load(1)(picture)[0]
        for precision in ("f32", "bf16")
    )
    difference = (exact["scores"][:5] - rough["scores"][:5]).abs().max()
    assert 1e-5 < difference < 0.1


def test_the_command_prints_a_table_and_writes_it(files, tmp_path, capsys):
    Image.new("RGB", (100, 70), (200, 10, 10)).save(tmp_path / "a.png")
    words = [str(files / "net.onnx"), "--beside", "ssdlite320_mobilenet_v3_large", "--size", "64", "96"]
    words += [
        "--images",
        str(tmp_path),
        "--rounds",
        "2",
        "--warm-up",
        "1",
        "--json",
        str(tmp_path / "s.json"),
    ]
    assert main(words) == 0
    content = json.loads((tmp_path / "s.json").read_text())
    assert [(model["engine"], len(model["milliseconds"])) for model in content["models"]] == [
        ("ONNX Runtime", 2),
        ("PyTorch", 2),
    ]
    assert content["protocol"]["size"] == [64, 96]
    assert content["protocol"]["picture_sizes"] == [[64, 96]]
    assert "ssdlite320" in capsys.readouterr().out


def test_detectors_of_torchvision_look_at_the_size_that_is_asked_for(monkeypatch):
    sizes, forward = [], GeneralizedRCNNTransform.forward

    def watched(self, images, targets=None):
        result = forward(self, images, targets)
        sizes.extend(result[0].image_sizes)
        return result

    monkeypatch.setattr(GeneralizedRCNNTransform, "forward", watched)
    torchvision_step("fasterrcnn_mobilenet_v3_large_320_fpn", "f32", (64, 96), 1)(synthetic(64, 96)[0])
    assert sizes == [(64, 96)]


WITHOUT_TORCH = """
import sys
from detection.predict import main
code = main(sys.argv[1:])
assert "torch" not in sys.modules
sys.exit(code)
"""


@pytest.mark.parametrize(("file", "engine"), [("net.onnx", ["openvino"]), ("net.xml", [])])
def test_pictures_are_predicted_by_an_exported_file_without_pytorch(files, tmp_path, file, engine):
    picture = synthetic(80, 160)[2]
    picture.save(tmp_path / "a.png")
    words = [
        str(files / file),
        str(tmp_path / "a.png"),
        "--min-score",
        "0",
        "--output",
        str(tmp_path / "out"),
    ]
    words += ["--engine", *engine] if engine else []
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *words], cwd=REPOSITORY, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    entries = json.loads((tmp_path / "out" / "detections.json").read_text())
    (expected,) = Detector.load(files / "net.safetensors", "cpu")(picture)
    assert len(entries) > 5
    assert [entry["score"] for entry in entries] == pytest.approx(expected["scores"].tolist(), abs=1e-3)
    assert [entry["category"] for entry in entries] == expected["names"]
    corners = [[x, y, x + width, y + height] for x, y, width, height in (one["bbox"] for one in entries)]
    assert np.abs(np.array(corners) - expected["boxes"].numpy()).max() < 0.01
    assert (tmp_path / "out" / "1_a.png").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["net.bin"], "net.bin: expected a file that ends in .safetensors, .onnx, .xml, .pt2"),
        (["none.pt2"], "none.pt2: no such detector"),
        (["net.onnx", "--precision", "f32", "bf16"], "net.onnx: ONNX Runtime computes in f32, not in bf16"),
        (
            ["net.pt2", "--precision", "bf16"],
            "net.pt2: a program of torch.export computes in f32, not in bf16",
        ),
        (["net.safetensors", "--images", "none.png"], "none.png: no such image or folder"),
    ],
)
def test_what_cannot_be_timed_is_refused_in_one_line(files, monkeypatch, capsys, words, message):
    monkeypatch.chdir(files)
    assert main(words) == 1
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
