"""Networks to export, and what the runtimes that the files are for make of a batch."""

import numpy as np
import onnxruntime
import torch

from backbones import Block, Cell, Genotype, NetworkSpec
from backbones.network import NASNet
from backbones.runtimes import openvino_core
from backbones.spec import Preprocessing
from benchmarks.calibration import calibrate

# Depthwise, dense and pooling operators, with stride and without, and a factorized reduction.
BORDERS = Genotype(
    normal=Cell((Block(0, 1, "sep_conv_3x3", "avg_pool_3x3"),), (1, 2)),
    reduction=Cell(
        (Block(0, 1, "conv_3x3", "avg_pool_3x3"), Block(0, 1, "max_pool_5x5", "identity")), (2, 3)
    ),
)


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
