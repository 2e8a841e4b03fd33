"""Every section of the benchmarks runs, on small networks and for a round, and its checks notice mistakes."""

import argparse
import copy
import inspect
import warnings
import zipfile
from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from backbones.export import export as backbones_export
from backbones.network import NASNet
from backbones.spec import ACTIVATION_MEMORY
from backbones.timing import interleaved
from backbones.zoo import ZOO
from benchmarks import backbones, classification, memory, peers, small_images, switches
from benchmarks.calibration import calibrate
from benchmarks.ratios import Row, compare, markdown, report

pytest.importorskip("timm")
pretrainedmodels = pytest.importorskip("pretrainedmodels")


@pytest.fixture
def tiny(monkeypatch):
    """In place of both networks NASNet-A with one cell a stage, its peer the same in the plain layout."""
    peer = calibrate(
        NASNet(replace(ZOO["nasnet_a_mobile"], cells_per_stage=1, filters=8), 10), size=96
    ).eval()
    own = copy.deepcopy(peer).to(memory_format=torch.channels_last)
    for module in (backbones, switches):
        monkeypatch.setattr(module, "pair", lambda name: (peer, own, 96))
    return own


def assert_rows(rows, work: str, ways: list[str]) -> None:
    rows = list(rows)
    assert [(row.work, row.way) for row in rows] == [(work, way) for way in ways]
    assert all(0 < row.quartiles[1] < 1000 for row in rows)


def test_inference_against_a_narrow_network_of_pretrainedmodels(monkeypatch):
    def public(name: str) -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return pretrainedmodels.models.nasnet_mobile.NASNetAMobile(10, 8, 192)

    monkeypatch.setattr(peers, "public", public)
    rows = backbones.inference("mobile", 1, 1, "cpu")
    assert_rows(rows, "mobile 224, batch 1", ["plain layout", "channels-last", "fused"])


def test_training(tiny):
    rows = list(backbones.training(2, 1, "cpu"))
    work = "training step, mobile 96, batch 2"
    assert_rows(rows[:3], work, list(ACTIVATION_MEMORY))
    assert_rows(rows[3:], f"{work}, saved activations", list(ACTIVATION_MEMORY))
    assert all(row.less for row in rows[3:])


def test_exported(monkeypatch):
    """With files of a mean and a product, since those of a network take a quarter of a minute to write."""
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    openvino = pytest.importorskip("openvino")
    pytest.importorskip("onnxruntime")
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5))

    def export(*request):
        inspect.signature(backbones_export).bind(*request)
        _, path, kind = request
        nodes = [
            helper.make_node("ReduceMean", ["images", "axes"], ["mean"], keepdims=0),
            helper.make_node("Gemm", ["mean", "weight", "bias"], ["logits"], transB=1),
        ]
        values = {"axes": torch.tensor([2, 3]), "weight": net[2].weight.data, "bias": net[2].bias.data}
        graph = helper.make_graph(
            nodes,
            "net",
            [helper.make_tensor_value_info("images", 1, ["batch", 3, 16, 16])],
            [helper.make_tensor_value_info("logits", 1, ["batch", 5])],
            [onnx.numpy_helper.from_array(value.numpy(), name) for name, value in values.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        source = path.with_suffix(".onnx")
        onnx.save(model, source)
        if kind == "openvino":
            openvino.save_model(openvino.convert_model(source), path, compress_to_fp16=False)

    monkeypatch.setattr(backbones, "export", export)
    monkeypatch.setattr(backbones, "pair", lambda name: (net, net, 16))
    rows = backbones.exported("mobile", {1: 1, 2: 1}, threads=1)
    ways = [*backbones.RUNTIMES, backbones.BETTER]
    assert [(row.work, row.way) for row in rows] == [
        (f"mobile 16, batch {batch}", way) for batch in (1, 2) for way in ways
    ]


@pytest.mark.slow
def test_resident(monkeypatch):
    weights = 4 * 5_289_978
    added = memory.resident_bytes("checkpoint", batch=1, threads=1)
    assert 2 * weights < added < 20 * weights  # gradients, momentum, and then maps

    monkeypatch.setattr(memory, "resident_bytes", lambda way, *_: 2**20 * (2 if way == "peer" else 1))
    rows = list(backbones.resident(8, 3, threads=1))
    assert_rows(rows, "training step, mobile 224, batch 8, resident memory", list(ACTIVATION_MEMORY))
    assert rows[0].cells()[2:5] == ("2.0 MiB", "1.0 MiB", "0.50")


@pytest.mark.slow
def test_switches(tiny):
    levers = ["channels-last", "states read once", "fuse", *switches.FUSED]
    assert_rows(switches.inference(1, 1), "inference, mobile 96, batch 1", levers)
    levers = [*switches.TRAINING, "channels-last"]
    assert_rows(switches.training(2, 1), "training step, mobile 96, batch 2", levers)


class Operators(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("lever", [*switches.FUSED, *switches.TRAINING])
def test_a_lever_taken_away_changes_what_runs(tiny, lever):
    images = torch.randn(1, 3, 96, 96).contiguous(memory_format=torch.channels_last)
    net = tiny.fuse() if lever in switches.FUSED else tiny.train()
    patches = (switches.FUSED | switches.TRAINING)[lever]
    seen = []
    for run in (lambda: net(images), switches.without(lambda: net(images), patches), lambda: net(images)):
        with torch.set_grad_enabled(lever in switches.TRAINING), Operators() as operators:
            run()
        seen.append(operators.names)
    assert seen[0] != seen[1]
    assert seen[0] == seen[2]


def test_classification(tmp_path):
    with zipfile.ZipFile(tmp_path / "imagenet-sample.zip", "w") as archive:
        for number in range(4):
            path = tmp_path / "image.JPEG"
            Image.effect_noise((60, 40), 50).convert("RGB").save(path)
            archive.write(path, f"val/n0000000{number % 2}/{number}.JPEG")
    rows = list(classification.jpeg(tmp_path, rounds=1, limit=4))
    assert_rows(rows[:1], classification.AS_SHIPPED, ["ours"])
    assert_rows(rows[1:], classification.LARGE, ["ours"])


def test_training_on_small_images(monkeypatch):
    monkeypatch.setattr(small_images, "BATCH", 4)
    monkeypatch.setattr(small_images, "WORKERS", (0,))
    rows = small_images.resident(rounds=1, batches=2)
    assert_rows(rows, small_images.RESIDENT.format(0), ["ours"])
    assert_rows(small_images.overhead(rounds=1, steps=2), small_images.OVERHEAD, ["ours"])


def test_every_goal_belongs_to_a_row_that_its_benchmark_makes():
    rows = {(f"{name} {size}, batch {batch}", "fused") for name, size, batch in cases([1, 8], [1, 4])}
    rows |= {(f"{name} {size}, batch {batch}", backbones.BETTER) for name, size, batch in cases([1, 8], [1])}
    for work in (backbones.STEP, f"{backbones.STEP}, saved activations"):
        rows |= {(work, mode) for mode in ACTIVATION_MEMORY}
    assert set(backbones.GOALS) == rows


def cases(mobile: list[int], large: list[int]):
    return [("mobile", 224, batch) for batch in mobile] + [("large", 331, batch) for batch in large]


def test_gradients_that_differ_end_the_training_section(tiny):
    tiny.cells["cell_1"].fit[1].weight.data *= 1.001
    with pytest.raises(SystemExit, match=r"training step, mobile 96, batch 2, keep: loss differs"):
        list(backbones.training(2, 1, "cpu"))


def test_saved_bytes_are_what_the_backward_pass_needs():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 6, bias=False)

        def forward(self, x):
            return self.linear(x).exp().sin().sum()  # keeps the products' exponentials, and nothing of sum

    # exp keeps its result, which sin reads; the logit is one float more.
    assert memory.saved_bytes(Twice(), torch.randn(5, 4)) == 4 * (5 * 6 + 1)
    with torch.no_grad():
        assert memory.saved_bytes(Twice(), torch.randn(5, 4)) == 4


@pytest.mark.parametrize(
    ("quartiles", "less", "verdict"),
    [
        ((2.1, 2.2, 2.3), False, "met"),
        ((2.0, 2.2, 2.3), False, "level"),
        ((1.9, 2.0, 2.1), False, "level"),
        ((1.9, 2.0, 2.05), False, "missed"),
        ((1.9, 2.0, 2.1), True, "met"),
        ((2.0, 2.2, 2.3), True, "level"),
        ((2.2, 2.3, 2.4), True, "missed"),
    ],
)
def test_the_verdict_asks_the_worse_quartile(quartiles, less, verdict):
    assert Row("work", "way", "2 ms", "1 ms", quartiles, 2.1, less).verdict == verdict


def test_ratios_are_the_peers_time_through_ours_and_our_memory_through_the_peers():
    samples = {"peer": [2.0, 4.0, 6.0], "ours": [1.0, 1.0, 2.0]}
    (row,) = compare("work", samples, {("work", "ours"): 2.0})
    assert row == Row("work", "ours", "4000.0 ms", "1000.0 ms", (2.0, 3.0, 4.0), 2.0)
    (row,) = compare("work", samples, {}, show=str, less=True)
    assert row == Row("work", "ours", "4.0", "1.0", (0.25, 1 / 3, 0.5), None, True)
    assert markdown([row]).splitlines()[-1] == "| work | ours | 4.0 | 1.0 | 0.33 | 0.25 to 0.50 |  |"


def test_rounds_are_interleaved_and_the_first_does_not_count():
    order, now = [], [0.0]

    def way(name, seconds):
        def run():
            order.append(name)
            now[0] += seconds

        return run

    seconds = interleaved({"a": way("a", 1.0), "b": way("b", 2.0)}, 2, clock=lambda: now[0])
    assert seconds == {"a": [1.0, 1.0], "b": [2.0, 2.0]}
    assert "".join(order) == "abbaab"


def test_the_report_is_written_as_it_is_printed(tmp_path, capsys):
    args = argparse.Namespace(rounds=1, threads=1, markdown=tmp_path / "table.md")
    row = Row("work", "way", "2 ms", "1 ms", (2.0, 2.0, 2.0))
    report([lambda: iter([row])], args, "some CPU")
    text = (tmp_path / "table.md").read_text()
    assert "some CPU" in text
    assert markdown([row]) in text
    assert text.strip() == capsys.readouterr().out.strip()


def test_a_markdown_file_that_cannot_be_written_ends_the_program_before_it_measures(tmp_path):
    def measure():
        raise AssertionError("measured")

    args = argparse.Namespace(rounds=1, threads=1, markdown=tmp_path / "none" / "table.md")
    with pytest.raises(SystemExit, match="its folder does not exist"):
        report([measure], args, "some CPU")
