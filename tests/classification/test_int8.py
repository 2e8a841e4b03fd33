"""A classifier in int8 for OpenVINO: what it costs, and what is refused."""

import re
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from backbones import Block, Cell, Genotype, NetworkSpec, save
from backbones.network import NASNet
from backbones.runtimes import open_program, openvino_core
from backbones.spec import Preprocessing
from benchmarks.calibration import calibrate
from classification.int8 import main

CELLS = Genotype(
    normal=Cell((Block(0, 1, "conv_3x3", "identity"),), (2,)),
    reduction=Cell((Block(0, 0, "avg_pool_3x3", "identity"),), (2,)),
)
CLASSES = ["dark", "light"]


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    net = calibrate(NASNet(NetworkSpec(CELLS, 1, 16, stem_filters=8, image_size=32, stem="cifar"), 2)).eval()
    net.classes, net.preprocessing = CLASSES, Preprocessing(32, (0.5,) * 3, (0.25,) * 3, crop=1.0)
    path = tmp_path / "backbone.safetensors"
    save(net, path)
    return path


@pytest.fixture
def images(tmp_path):
    draws = np.random.default_rng(0)
    for k, name in enumerate([*CLASSES, "unknown"]):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(4):
            pixels = draws.integers(60 * k, 60 * k + 120, (40, 40, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{number}.png")
    return tmp_path / "images"


@pytest.mark.slow
def test_int8_tells_what_it_costs_in_top_1(weights, images, tmp_path, capsys):
    pytest.importorskip("nncf")
    output = tmp_path / "out" / "net.xml"
    assert main([str(weights), "--images", str(images), "--output", str(output)]) == 0
    first, last = capsys.readouterr().out.splitlines()
    told = re.fullmatch(
        r"int8, calibrated on 12 images: top-1 ([\d.]+) → ([\d.]+) of 8, (\d+) of 12 images keep their class",
        first,
    )
    assert told is not None, first
    assert last == str(output)
    assert sorted(path.name for path in output.parent.iterdir()) == ["net.bin", "net.xml"]
    assert int(told[3]) >= 10
    kinds = Counter(operator.get_type_name() for operator in openvino_core().read_model(output).get_ops())
    assert kinds["FakeQuantize"] > 5
    program = open_program(output)
    assert program.metadata["classes"] == '["dark", "light"]'
    assert program.run({"images": np.zeros((1, 3, 32, 32), np.float32)})["logits"].shape == (1, 2)


def test_what_is_missing_is_said_before_any_work(weights, images, tmp_path, capsys, monkeypatch):
    output = str(tmp_path / "net.xml")
    assert main([str(weights), "--images", str(tmp_path / "none"), "--output", output]) == 1
    assert "none: no such image or folder" in capsys.readouterr().err
    assert main([str(weights), "--images", str(images), "--output", str(tmp_path / "net.onnx")]) == 1
    assert "a file of format openvino must end in .xml" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "nncf", None)
    assert main([str(weights), "--images", str(images), "--output", output]) == 1
    assert "int8 needs nncf, which is not installed" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backbone.safetensors", "images"]
