"""A network as a program for other runtimes: ONNX, OpenVINO, and PyTorch's exported program.

Each takes `images`, `[N, in_channels, S, S]` float32, N free, S fixed, normalised as the stored preprocessing
says (RGB in 0..1, minus mean, over std), and gives `logits`, `[N, K]`, or with features `c2` to `c5`, after
the ReLU. The file also holds `preprocessing` and `classes` as JSON: among ONNX's metadata properties, in
OpenVINO's runtime information under `celltransfer`, and in a .pt2 as the extra files `preprocessing.json` and
`classes.json`.
"""

import copy
import dataclasses
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from backbones.base import Classifier
from backbones.formats import check_export
from backbones.fused import FusedCell
from backbones.runtimes import open_program, openvino_core, save_openvino
from backbones.weights import load

TOLERANCE = 1e-4
"""Difference to the network, relative to its largest output, above which a file is refused …"""

ROUNDING = 10
"""… unless it is within so many times that of the network to itself in float64: few digits are left then."""


class _Program(nn.Module):
    def __init__(self, net: Classifier, features: bool) -> None:
        super().__init__()
        self.net, self.features = net, features

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.net.features(images) if self.features else {"logits": self.net(images)}


def export(
    net: Classifier | str | os.PathLike[str],
    path: str | os.PathLike[str],
    format: str,
    *,
    image_size: int | None = None,
    features: bool = False,
) -> None:
    """Writes `net` for another runtime, atomically, once the file's answers are those of the network.

    net: a network, not fused, which stays as it is, or the path of its `backbone.safetensors`.
    path: ends in .onnx, .xml (OpenVINO, with its weights beside it in .bin) or .pt2, as `format` asks.
    format: `onnx` and `openvino` have the form that runs fastest on a CPU (`onnx_graph`); `torch` is the
        plain network, to be read with `torch.export.load`; it returns a dict with the names above.
    image_size: S, the side of the images in pixels; that of the preprocessing where None.
    features: the maps of `net.features` in place of the logits.

    OpenVINO runs a fixed batch faster than a free one: call `model.reshape([N, C, S, S])` after reading.

    Raises ValueError or FileNotFoundError that names what was wrong, also where the file would answer
    otherwise than the network, and ModuleNotFoundError with the command that installs what is missing.
    """
    path = Path(path)
    check_export(path, format)
    if image_size is not None and image_size < 1:
        raise ValueError(f"image_size = {image_size}, must be a whole number from 1 on")
    if not isinstance(net, Classifier):
        net = load(net)
    if any(isinstance(module, FusedCell) for module in net.modules()):
        raise ValueError("a fused network cannot be exported: export the one that it was fused from")
    size = net.preprocessing.size if image_size is None else image_size
    metadata = {
        "preprocessing": json.dumps(dataclasses.asdict(net.preprocessing) | {"size": size}),
        "classes": json.dumps(net.classes),
    }
    program = _Program(copy.deepcopy(net).cpu().eval().requires_grad_(False), features)
    images = torch.randn(
        3, net.spec.in_channels, size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    exact = program.double()(images)
    images = images.float()
    expected = program.float()(images)
    traced = _trace(program, images[:2])
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        written = Path(folder) / path.name
        if format == "torch":
            answers = _write_torch(traced, written, metadata, images)
        elif format == "onnx":
            answers = _write_onnx(traced, list(expected), written, metadata, images)
        else:
            answers = _write_openvino(traced, list(expected), written, metadata, images)
        for name in expected:
            _compare(answers[name], expected[name], exact[name], f"{path} was not written: its {name}")
        replace_files(Path(folder), path)


def onnx_bytes(net: Classifier, height: int, width: int, *, features: bool = False) -> bytes:
    """The program that `export` writes as `onnx`, for images of another shape, without its check.

    It runs as fast on random weights, which is what it is for. features: as for `export`."""
    program = _Program(copy.deepcopy(net).cpu().eval().requires_grad_(False), features)
    images = torch.zeros(2, net.spec.in_channels, height, width)
    return _to_onnx(_trace(program, images), list(program(images)), {})


def _trace(program: _Program, images: Tensor) -> ExportedProgram:
    traced = torch.export.export(program, (images,), dynamic_shapes=({0: Dim("batch")},))
    for node in traced.graph.nodes:
        node.meta.pop("stack_trace", None)  # names files of this machine
    return traced


def _write_torch(
    traced: ExportedProgram, path: Path, metadata: Mapping[str, str], images: Tensor
) -> dict[str, Tensor]:
    torch.export.save(traced, path, extra_files={f"{key}.json": text for key, text in metadata.items()})
    return torch.export.load(path).module()(images)


def _to_onnx(traced: ExportedProgram, outputs: list[str], metadata: Mapping[str, str]) -> bytes:
    from backbones.onnx_graph import optimise

    program = torch.onnx.export(
        traced, dynamo=True, input_names=["images"], output_names=outputs, verbose=False
    )
    assert program is not None
    model = program.model_proto
    optimise(model)
    for value in [*model.graph.input, *model.graph.output]:
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    for described in [*model.graph.node, *model.graph.input, *model.graph.output]:
        del described.metadata_props[:]  # the exporter's notes name files of this machine
    for key, text in metadata.items():
        model.metadata_props.add(key=key, value=text)
    return model.SerializeToString()


def _write_onnx(
    traced: ExportedProgram, names: list[str], path: Path, metadata: Mapping[str, str], images: Tensor
) -> dict[str, Tensor]:
    path.write_bytes(_to_onnx(traced, names, metadata))
    return _answers(path, images)


def _write_openvino(
    traced: ExportedProgram, names: list[str], path: Path, metadata: Mapping[str, str], images: Tensor
) -> dict[str, Tensor]:
    source = path.with_suffix(".onnx")
    source.write_bytes(_to_onnx(traced, names, {}))
    model = openvino_core().read_model(source)
    save_openvino(model, path, metadata)
    source.unlink()
    return _answers(path, images)


def _answers(path: Path, images: Tensor) -> dict[str, Tensor]:
    answers = open_program(path).run({"images": images.numpy()})
    return {name: torch.from_numpy(answer.copy()) for name, answer in answers.items()}


def _compare(answer: Tensor, expected: Tensor, exact: Tensor, what: str) -> None:
    """Raises ValueError where an answer is off by more than rounding explains. exact: in float64."""
    difference, rounding = ((value - exact).abs().max().item() for value in (answer, expected))
    allowed = max(TOLERANCE * exact.abs().max().item(), ROUNDING * rounding)
    if not difference <= allowed:  # also where either is not a number
        raise ValueError(
            f"{what} differ from the network's by {difference:.3g}, expected at most {allowed:.3g}"
        )


def replace_files(folder: Path, path: Path) -> None:
    """Moves what is in `folder` to its place beside `path`, `path` itself last.

    Two files cannot be replaced at once: the old `path` goes first, lest it be seen with new weights.
    """
    files = sorted(folder.iterdir(), key=lambda file: file.name == path.name)
    for file in files:
        with file.open("rb+") as opened:
            os.fsync(opened.fileno())
    if len(files) > 1:
        path.unlink(missing_ok=True)
    for file in files:
        os.replace(file, path.with_name(file.name))
