"""`python -m backbones.speed`: each file is timed in its runtime, and all give the same answer."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from backbones import Block, Cell, Genotype, NetworkSpec, load, processor, runtimes, save, transforms
from backbones.export import export
from backbones.network import NASNet
from backbones.spec import Preprocessing
from backbones.speed import main, model_of
from backbones.speed_table import synthetic
from runtime.named_images import pictures_of
from search.latency.config import LatencyConfig
from search.latency.measure import check_engine

CELL = Cell((Block(0, 1, "sep_conv_3x3", "identity"),), (2,))
REDUCTION = Cell((Block(0, 0, "avg_pool_3x3", "identity"),), (2,))
RUNTIMES = {".safetensors": "PyTorch", ".onnx": "ONNX Runtime", ".xml": "OpenVINO", ".pt2": "torch.export"}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Of one network, which sees grey pictures of 32 px: its weights, and what was exported from them."""
    folder = tmp_path_factory.mktemp("speed")
    torch.manual_seed(0)
    net = NASNet(NetworkSpec(Genotype(CELL, REDUCTION), 1, 12, stem="cifar", in_channels=1), 5).eval()
    net.preprocessing = Preprocessing(32, mean=(0.4,), std=(0.3,), crop=0.9)
    save(net, folder / "net.safetensors")
    for format, suffix in (("onnx", ".onnx"), ("openvino", ".xml"), ("torch", ".pt2")):
        export(net, folder / f"net{suffix}", format)
    return folder


REFUSED = {".onnx": "ONNX Runtime computes in f32"}
if not (processor.features() or {}).get("bf16"):
    REFUSED[".xml"] = "OpenVINO computes in .* on this processor"


@pytest.mark.parametrize("precision", ["f32", "bf16"])
@pytest.mark.parametrize("suffix", RUNTIMES)
def test_every_runtime_gives_the_probabilities_of_the_picture(files, suffix, precision):
    path, picture = str(files / f"net{suffix}"), synthetic(50, 60)[1]
    if precision == "bf16" and (refused := REFUSED.get(suffix)):
        with pytest.raises(ValueError, match=rf"net\{suffix}: {refused}, not in bf16"):
            model_of(path, precision)
        return
    model = model_of(path, precision)
    assert model.engine == RUNTIMES[suffix]
    net = load(files / "net.safetensors")
    with torch.inference_mode():
        expected = net(transforms(net)(picture)[None]).softmax(dim=1).numpy()
    difference = np.abs(np.asarray(model.load(1)(picture)) - expected[0]).max()
    if precision == "f32":
        assert difference < 1e-5
    else:
        assert 1e-6 < difference < 0.05


def test_openvino_without_bf16_is_refused_where_it_would_take_f32(files, monkeypatch, capsys):
    able = ["FP32", "INT8"]
    core = SimpleNamespace(get_property=lambda device, name: able)
    monkeypatch.setattr(runtimes, "openvino_core", lambda: core)
    path = str(files / "net.xml")
    told = f"{path}: OpenVINO computes in fp32, int8 on this processor, not in bf16"
    assert main(pictures_of, [path, "--precision", "f32", "bf16"]) == 1
    assert capsys.readouterr().err.strip().endswith(told)
    with pytest.raises(ValueError, match=re.escape(told)):
        runtimes.open_program(path, precision="bf16")
    with pytest.raises(ValueError, match=r"latency\.precision: OpenVINO computes in fp32, int8"):
        check_engine(LatencyConfig(precision="bf16"))
    able.append("BF16")
    check_engine(LatencyConfig(precision="bf16"))


def test_the_command_prints_a_table_and_writes_it(files, tmp_path, capsys):
    Image.new("RGB", (40, 50), (200, 10, 10)).save(tmp_path / "a.png")
    names = [str(files / f"net{suffix}") for suffix in (".safetensors", ".onnx")]
    words = [*names, "--images", str(tmp_path), "--rounds", "3", "--json", str(tmp_path / "speed.json")]
    assert main(pictures_of, words) == 0
    content = json.loads((tmp_path / "speed.json").read_text())
    weights, onnx = content["models"]
    assert [model["name"] for model in content["models"]] == names
    assert content["protocol"]["picture_sizes"] == [[50, 40]]
    assert content["protocol"]["threads"] == 1
    assert weights["times_the_first"] == 1
    for model in content["models"]:
        assert len(model["milliseconds"]) == 3
        assert model["images_per_second"] == pytest.approx(1e3 / model["quartiles"]["median"])
    assert onnx["peak_bytes"] < weights["peak_bytes"]  # without PyTorch
    printed = capsys.readouterr().out
    assert "ONNX Runtime" in printed
    assert "│ …/net.safetensors " in printed
    assert "1 thread, one picture at a time, 1 picture in turn" in printed
    assert "AVX2" in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["net.bin"], "net.bin: expected a file that ends in .safetensors, .onnx, .xml, .pt2"),
        (["none.onnx"], "none.onnx: no such network"),
        (["net.onnx", "--size", "64"], "--size 64: the size of net.onnx is fixed; export it with that size"),
        (["net.onnx", "--precision", "bf16"], "net.onnx: ONNX Runtime computes in f32, not in bf16"),
        (["net.safetensors", "--images", "none.png"], "none.png: no such image or folder"),
        (["net.safetensors", "--json", "."], ". is a folder, expected the name of a file to write"),
    ],
)
def test_what_cannot_be_timed_is_refused_in_one_line(files, monkeypatch, capsys, words, message):
    monkeypatch.chdir(files)
    assert main(pictures_of, words) == 1
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1


def test_a_file_of_somebody_else_is_refused(files, tmp_path):
    for suffix in (".onnx", ".xml", ".pt2", ".safetensors"):
        path = tmp_path / f"other{suffix}"
        path.write_bytes(b"nothing of that kind")
        path.with_suffix(".bin").write_bytes(b"")
        model = model_of(str(path), "f32")
        with pytest.raises(ValueError, match=f"other{suffix}: "):
            model.load(1)
