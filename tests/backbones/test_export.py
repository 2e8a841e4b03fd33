"""Exported files answer as the network does; they are read by the runtimes they are for."""

import json
import os
import re
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from genotypes import small_specs
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch.export import Dim

from backbones import Block, Cell, Genotype, NetworkSpec, create, load, save
from backbones.__main__ import main
from backbones.export import export, replace_files
from backbones.formats import SUFFIXES
from backbones.genotype import OPERATION_NAMES
from backbones.network import NASNet
from backbones.runtimes import openvino_core
from backbones.spec import Preprocessing
from benchmarks.calibration import calibrate
from celltransfer import install_command

# Depthwise, dense and pooling operators, with stride and without, and a factorized reduction.
BORDERS = Genotype(
    normal=Cell((Block(0, 1, "sep_conv_3x3", "avg_pool_3x3"),), (1, 2)),
    reduction=Cell(
        (Block(0, 1, "conv_3x3", "avg_pool_3x3"), Block(0, 1, "max_pool_5x5", "identity")), (2, 3)
    ),
)
UNSHRUNK = (Phase.explicit, Phase.reuse, Phase.generate)
"""Of hypothesis: to make a failing example smaller takes minutes where each try is an export."""
# Nothing but what a file's handling needs.
BRIEF = Genotype(
    normal=Cell((Block(0, 1, "conv_1x1", "identity"),), (2,)),
    reduction=Cell((Block(0, 0, "avg_pool_3x3", "identity"),), (2,)),
)
# Longer together than any list of real names, in letters that JSON and XML write otherwise.
CLASSES = [f'{name} <&"\\>' * 50_000 for name in ("eins", "zwei", "drei", "vier", "fünf")]


def network(genotype: Genotype, size: int = 32, **fields) -> NASNet:
    torch.manual_seed(0)
    net = NASNet(NetworkSpec(genotype, 1, 12, stem_filters=4, image_size=size, **fields), 5)
    net.classes = CLASSES
    net.preprocessing = Preprocessing(size, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), crop=1.0)
    return calibrate(net).eval()


@pytest.fixture
def brief() -> NASNet:
    return network(BRIEF, stem="cifar")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with a weights file and `net.onnx`, `net.xml` and `net.pt2` of it, for images of 34 px."""
    folder = tmp_path_factory.mktemp("written")
    save(network(BORDERS, stem="cifar"), folder / "backbone.safetensors")
    for format, suffix in SUFFIXES.items():  # maps of 34, 17 and 9 pixels
        export(folder / "backbone.safetensors", folder / f"net{suffix}", format, image_size=34)
    return folder


def images(net: NASNet, number: int, size: int | None = None) -> torch.Tensor:
    return torch.randn(number, 3, *[size or net.preprocessing.size] * 2)


def answers(path, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """What the runtime that the file is for makes of a batch."""
    if path.suffix == ".onnx":
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        values = session.run(names, {"images": x.numpy()})
        return {name: torch.from_numpy(value) for name, value in zip(names, values, strict=True)}
    if path.suffix == ".xml":
        model = openvino_core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        values = model({"images": x.numpy()})
        return {port.any_name: torch.from_numpy(np.array(values[port])) for port in model.outputs}
    return torch.export.load(path).module()(x)


def assert_same(found: torch.Tensor, expected: torch.Tensor) -> None:
    """To 1e-4 of the largest; batch norm's random statistics make the answers depend on the images."""
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert (expected[0] - expected[-1]).abs().max() > 1e-2 * expected.abs().max() or len(expected) == 1


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


@pytest.mark.slow
@pytest.mark.parametrize("strict", [False, True])
def test_the_network_itself_passes_torch_export_with_a_free_batch(strict):
    net = network(BORDERS, 32, stem="cifar")
    batch = {0: Dim("batch")}
    program = torch.export.export(net, (images(net, 2),), dynamic_shapes=(batch,), strict=strict).module()
    for number in (1, 7):
        x = images(net, number)
        with torch.no_grad():
            assert_same(program(x), net(x))


def compiled_and_plain(net: NASNet, method: str, backend: str):
    """The method's outputs as one list, compiled without a graph break and plain."""

    def flat(output):
        return (
            list(output.values())
            if isinstance(output, dict)
            else [output]
            if torch.is_tensor(output)
            else output
        )

    # Sizes of other tests make this one's symbols, with which Inductor calculates for half an hour.
    torch._dynamo.reset()
    x = images(net, 2)
    compiled = torch.compile(getattr(net, method), fullgraph=True, backend=backend)
    return flat(compiled(x)), flat(getattr(net, method)(x))


@pytest.mark.parametrize(
    ("method", "channels_last"),
    [
        ("forward_with_aux", True),
        *(
            pytest.param(method, channels_last, marks=pytest.mark.slow)
            for method in ("forward", "features", "forward_with_aux")
            for channels_last in (False, True)
            if (method, channels_last) != ("forward_with_aux", True)
        ),
    ],
)
def test_compiling_breaks_no_graph(method, channels_last):
    torch.manual_seed(0)
    spec = NetworkSpec(BORDERS, 1, 12, stem="cifar", stem_filters=4, image_size=32)
    net = calibrate(NASNet(spec, 5, auxiliary=True)).train(method == "forward_with_aux")
    if channels_last:
        net = net.to(memory_format=torch.channels_last)
    for found, expected in zip(*compiled_and_plain(net, method, "eager"), strict=True):
        assert_same(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["forward", "features"])
def test_the_compiled_network_answers_as_the_plain_one(method):
    net = network(BORDERS, 64)
    with torch.no_grad():
        for found, expected in zip(*compiled_and_plain(net, method, "inductor"), strict=True):
            assert_same(found, expected)
