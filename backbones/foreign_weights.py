"""Other packages' NASNets: what they call the tensors of ours.

Both packages number the normal cells as if each stage had six, and name the paths of a cell after the blocks
of NASNet-A, in our order.
"""

import dataclasses
import os
import pickle
import struct
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from backbones.cell import BlockModule, CellModule
from backbones.files import existing
from backbones.network import NASNet
from backbones.zoo import FOREIGN_NETWORKS

_FIT = ("conv_1x1.conv", "conv_1x1.bn")
_FIT_PREV: Mapping[int, tuple[str, ...]] = {
    0: (),  # the raw input
    2: ("conv_prev_1x1.conv", "conv_prev_1x1.bn"),
    3: ("path_1.conv", "path_2.conv", "final_path_bn"),  # across a reduction
}
"""By our number of layers there."""
_SEPARABLE = (
    "separable_1.depthwise_conv2d",
    "separable_1.pointwise_conv2d",
    "bn_sep_1",
    "separable_2.depthwise_conv2d",
    "separable_2.pointwise_conv2d",
    "bn_sep_2",
)


_UNREADABLE = (
    *(SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, LookupError, OSError, ValueError),
    *(TypeError, AttributeError, AssertionError, ArithmeticError, MemoryError, struct.error),
)
"""What PyTorch and safetensors raise for a file that is damaged, or none of theirs."""


def blank_network(state_dict: Mapping[str, Any], source: str) -> NASNet:
    """The network that the tensors belong to, on the `meta` device; a size that they lack is the default.

    source: a key of FOREIGN_NETWORKS. Raises ValueError for another.
    """
    if source not in FOREIGN_NETWORKS:
        raise ValueError(f"source = {source!r}, expected one of {', '.join(FOREIGN_NETWORKS)}")
    foreign = FOREIGN_NETWORKS[source]
    spec, num_classes = foreign.spec, 1000
    stem, classifier = state_dict.get("conv0.conv.weight"), state_dict.get("last_linear.weight")
    if isinstance(stem, Tensor) and stem.ndim == 4 and stem.numel():
        spec = dataclasses.replace(spec, stem_filters=stem.shape[0], in_channels=stem.shape[1])
    if isinstance(classifier, Tensor) and classifier.ndim == 2 and classifier.numel():
        num_classes, width = classifier.shape
        if width % 96 == 0 and width >= 192:  # filters as the stem needs them, see NetworkSpec
            spec = dataclasses.replace(spec, filters=width // 24)
    with torch.device("meta"):
        net = NASNet(spec, num_classes)
    net.preprocessing = dataclasses.replace(
        net.preprocessing, crop=foreign.crop, interpolation=foreign.interpolation
    )
    return net


def their_names(net: NASNet) -> dict[str, str]:
    """Their name of every tensor of `net.state_dict()`."""
    ours = {module: name for name, module in net.named_modules()}
    return {
        f"{ours[layer]}.{tensor}": f"{theirs}.{tensor}"
        for layer, theirs in _layer_names(net)
        for tensor in layer.state_dict()
    }


def _layer_names(net: NASNet) -> Iterator[tuple[nn.Module, str]]:
    yield from zip(_layers(net.stem), ("conv0.conv", "conv0.bn"), strict=True)
    for name, cell in net.cells.items():
        assert isinstance(cell, CellModule)
        theirs = _their_cell(name, net.spec.cells_per_stage)
        for module, path, layers in _paths(cell):
            yield from zip(_layers(module), (f"{theirs}.{path}{layer}" for layer in layers), strict=True)
    yield net.classifier, "last_linear"


def _paths(cell: CellModule) -> Iterator[tuple[nn.Module, str, tuple[str, ...]]]:
    """(module, their name of the path, their names of its layers)."""
    yield cell.fit, "", _FIT
    yield cell.fit_prev, "", _FIT_PREV[len(_layers(cell.fit_prev))]
    for b, block in cell.blocks.items():
        assert isinstance(block, BlockModule)
        for operation, side in ((block.left, "left"), (block.right, "right")):
            separable = _SEPARABLE if _layers(operation) else ()  # pools and identities have no weights
            yield operation, f"comb_iter_{b}_{side}.", separable


def _layers(module: nn.Module) -> list[nn.Module]:
    return [part for part in module.modules() if isinstance(part, nn.Conv2d | nn.BatchNorm2d)]


def _their_cell(name: str, cells_per_stage: int) -> str:
    kind, number = name.split("_")
    if kind == "cell":
        stage, cell = divmod(int(number), cells_per_stage)
        return f"cell_{6 * stage + cell}"
    return {"stem": "cell_stem", "reduction": "reduction_cell"}[kind] + f"_{number}"


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` or a PyTorch file, which may hold them under `state_dict`.

    Nothing but tensors and plain containers is unpickled. Raises FileNotFoundError, or ValueError that names
    the file and what was expected.
    """
    existing(path, "state dict")
    try:
        if str(path).endswith(".safetensors"):
            return load_file(path)
        value = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE:
        raise ValueError(
            f"{path}: not a state dict in PyTorch's or safetensors format, which holds tensors by name and "
            "nothing else"
        ) from None
    if isinstance(value, Mapping) and isinstance(value.get("state_dict"), Mapping):
        value = value["state_dict"]
    if not isinstance(value, Mapping) or not all(isinstance(tensor, Tensor) for tensor in value.values()):
        raise ValueError(f"{path}: holds {type(value).__name__}, expected names with their tensors")
    return dict(value)
