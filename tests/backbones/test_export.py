"""Exported files answer as the network does; they are read by the runtimes they are for."""

import json
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
import openvino
import pytest
import torch
from exported_networks import BORDERS, BRIEF, CLASSES, answers, assert_same, images, network
from genotypes import small_specs
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from backbones import Block, Cell, Genotype, create, load, save
from backbones.export import export
from backbones.formats import SUFFIXES
from backbones.genotype import OPERATION_NAMES
from backbones.network import NASNet
from backbones.runtimes import openvino_core
from benchmarks.calibration import calibrate

UNSHRUNK = (Phase.explicit, Phase.reuse, Phase.generate)
"""Of hypothesis: to make a failing example smaller takes minutes where each try is an export."""


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with a weights file and `net.onnx`, `net.xml` and `net.pt2` of it, for images of 34 px."""
    folder = tmp_path_factory.mktemp("written")
    save(network(BORDERS, stem="cifar"), folder / "backbone.safetensors")
    for format, suffix in SUFFIXES.items():  # maps of 34, 17 and 9 pixels
        export(folder / "backbone.safetensors", folder / f"net{suffix}", format, image_size=34)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "fields"),
    [
        (224, {}),  # maps of 111, 56, 28, 14, 7 pixels
        (331, {}),  # 165, 83, 42, 21, 11
        (36, {"stem": "cifar", "padding": "symmetric"}),
        (5, {"stem": "cifar"}),  # 5, 3, 2: maps smaller than the windows over them
    ],
)
def test_borders_are_the_networks_in_onnx_runtime_and_openvino(tmp_path, size, fields):
    net = network(BORDERS, size, **fields)
    export(net, tmp_path / "net.onnx", "onnx")
    openvino.save_model(openvino.convert_model(tmp_path / "net.onnx"), tmp_path / "net.xml", False)
    x = images(net, 2)
    with torch.no_grad():
        assert_same(answers(tmp_path / "net.onnx", x)["logits"], net(x))
        assert_same(answers(tmp_path / "net.xml", x)["logits"], net(x))
    assert_blocked(onnx.load(tmp_path / "net.onnx").graph)


def assert_blocked(graph: onnx.GraphProto) -> None:
    """No operator for which ONNX Runtime leaves its layout of 8 channels side by side (`onnx_graph`)."""
    operators = Counter(node.op_type for node in graph.node)
    assert set(operators) == {"Conv", "Relu", "Add", "Concat", "AveragePool", "MaxPool", "ReduceMean", "Gemm"}
    assert operators["ReduceMean"] == operators["Gemm"] == 1
    shapes = {weight.name: weight.dims for weight in graph.initializer}
    assert all(shapes[node.input[1]][0] % 8 == 0 for node in graph.node if node.op_type == "Conv")
    assert not [a for node in graph.node for a in node.attribute if a.name == "ceil_mode" and a.i]


def test_onnx_runtime_can_keep_its_layout(written):
    assert_blocked(onnx.load(written / "net.onnx").graph)


@pytest.mark.slow
def test_every_operation_exports(tmp_path):
    names = [*OPERATION_NAMES, "identity"]
    blocks = [
        Block(0, 1, left, right, combine)
        for left, right, combine in zip(names[::2], names[1::2], ["add", "concat"] * 3 + ["add"], strict=True)
    ]
    reduction = Cell(tuple(blocks), tuple(range(2, 9)))
    fields = {"stem": "cifar", "strided_average_counts_padding": True}
    net = network(Genotype(BRIEF.normal, reduction), 34, **fields)
    export(net, tmp_path / "net.onnx", "onnx")
    x = images(net, 2)
    with torch.no_grad():
        assert_same(answers(tmp_path / "net.onnx", x)["logits"], net(x))


@pytest.mark.slow
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow], phases=UNSHRUNK)
@given(small_specs(st.sampled_from([32, 33, 35, 64, 65]), max_cells_per_stage=1), st.booleans())
def test_any_network_exports_with_every_width_a_multiple_of_8(spec, features):
    """Export itself compares the answers."""
    net = calibrate(NASNet(spec, 5))
    with TemporaryDirectory() as folder:
        export(net, Path(folder) / "net.onnx", "onnx", features=features)
        graph = onnx.load(Path(folder) / "net.onnx").graph
    shapes = {weight.name: weight.dims for weight in graph.initializer}
    assert all(shapes[node.input[1]][0] % 8 == 0 for node in graph.node if node.op_type == "Conv")


@pytest.mark.parametrize("suffix", SUFFIXES.values())
def test_a_weights_file_exports_with_the_batch_left_free(written, suffix):
    net = load(written / "backbone.safetensors")
    for number in (1, 2, 5):
        x = images(net, number, size=34)
        with torch.no_grad():
            assert_same(answers(written / f"net{suffix}", x)["logits"], net(x))


@pytest.mark.slow
@pytest.mark.parametrize("format", SUFFIXES)
def test_features_are_the_maps_by_name(tmp_path, format):
    net = network(BRIEF, 64)
    path = tmp_path / f"net{SUFFIXES[format]}"
    export(net, path, format, features=True)
    x = images(net, 2)
    with torch.no_grad():
        expected = net.features(x)
    found = answers(path, x)
    assert list(found) == list(expected) == ["c2", "c3", "c4", "c5"]
    for name in expected:
        assert_same(found[name], expected[name])


def test_the_file_says_how_images_become_input_and_what_the_classes_are(written):
    described = {
        "preprocessing": {
            "size": 34,
            "mean": [0.1, 0.2, 0.3],
            "std": [0.4, 0.5, 0.6],
            "crop": 1.0,
            "interpolation": "bilinear",
        },
        "classes": CLASSES,
    }
    properties = onnx.load(written / "net.onnx").metadata_props
    assert {p.key: json.loads(p.value) for p in properties} == described
    model = openvino_core().read_model(written / "net.xml")
    assert {key: json.loads(model.get_rt_info(["celltransfer", key]).value) for key in described} == described
    extra = {f"{key}.json": "" for key in described}
    torch.export.load(written / "net.pt2", extra_files=extra)
    assert {key: json.loads(extra[f"{key}.json"]) for key in described} == described


def test_files_name_no_place_of_the_machine_that_wrote_them(written):
    for path in written.iterdir():
        assert b"network.py" not in path.read_bytes(), path.name


def test_a_network_of_timm_exports(tmp_path):
    net = create("timm/test_byobnet", 5, image_size=64).eval()
    export(net, tmp_path / "net.pt2", "torch")
    x = images(net, 2)
    with torch.no_grad():
        assert (answers(tmp_path / "net.pt2", x)["logits"] - net(x)).abs().max() <= 1e-4 * net(x).abs().max()
