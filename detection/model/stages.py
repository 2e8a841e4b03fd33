"""The maps of a backbone as they really are: checked before a training, and frozen up to one of them."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from backbones.base import Backbone, split_at
from backbones.ranges import KEY, ConfigError
from detection.model.norms import freeze_statistics

DRY_RUN_SIZES = ((128, 192), (160, 96))
"""Height and width in pixels: multiples of 32, as engines pad, not square, and no multiple of each other, so
that a network for one size, and maps that are rounded otherwise, show."""
ODD_SIZE = (107, 149)
"""What a detector on one map may be given, which pads to no multiple."""


def check_maps(network: Backbone, name: str) -> None:
    """Runs the network at two sizes and compares its maps with what `feature_info` says of them.

    name: of the network, for the message. Raises ValueError where it takes no such images, or where a map has
    other channels, or another size than image / stride, by which engines place anchors and crop."""
    for height, width in DRY_RUN_SIZES:
        try:
            with torch.no_grad():
                maps = _maps(network, height, width)
        except (AssertionError, RuntimeError, ValueError) as error:  # each network has its own way to refuse
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(
                f"{name} takes no images of {height}x{width} px, but detection gives it images of any size: "
                f"{reason}"
            ) from error
        for info in network.feature_info:
            expected = (info.channels, height // info.stride, width // info.stride)
            found = tuple(maps[info.name].shape[1:]) if info.name in maps else None
            if found != expected:
                raise ValueError(
                    f"{name}: of an image of {height}x{width} px its map {info.name} is {_told(found)}, but "
                    f"its feature_info says {_told(expected)}, stride {info.stride}; anchors and crops would "
                    "lie beside the objects: choose a network whose maps are image / stride"
                )


def check_halves(network: Backbone, name: str, stride: int) -> None:
    """Runs the two halves of the network, cut at `stride`, on an image of odd sides.

    name: of the network, for the message. Raises ValueError where one of them refuses it, or where a map is
    not image / stride, rounded up, by which proposals are placed and crops taken."""
    height, width = ODD_SIZE
    split = split_at(network, stride)
    try:
        with torch.no_grad(), _evaluating(network):
            between = split.trunk(_image(network, height, width))
            last = split.tail(between)
    except (AssertionError, RuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{name} takes no images of {height}x{width} px, but on one map they are not padded: {reason}"
        ) from error
    maps = ((stride, split.channels, between), (2 * stride, split.tail_channels, last))
    for step, channels, feature_map in maps:
        expected = (channels, math.ceil(height / step), math.ceil(width / step))
        if (found := tuple(feature_map.shape[1:])) != expected:
            raise ValueError(
                f"{name}: of an image of {height}x{width} px its map at stride {step} is {_told(found)}, "
                f"expected {_told(expected)}; crops would lie beside the objects: choose another network, or "
                "a detector with a pyramid, which pads its images"
            )


def freeze_stages(network: Backbone, level: int) -> None:
    """Freezes all that the maps up to `c<level>` are computed from, with the statistics of its norms.

    Those parameters get no gradient. level: log2 of a stride; 2 is Detectron2's FREEZE_AT = 2 of a ResNet.
    Which parameters they are is read from the graph of a small run, so any network will do.
    Raises ValueError where no map is that early."""
    names = [info.name for info in network.feature_info if info.stride <= 2**level]
    if not names:
        first = network.feature_info[0].name
        raise ConfigError(f"{KEY}backbone.freeze_at = {level}, but the first map of this network is {first}")
    with torch.enable_grad():
        maps = _maps(network, *DRY_RUN_SIZES[-1])
    reached = _parameters_of([maps[name] for name in names])
    for module in network.modules():
        own = list(module.parameters(recurse=False))
        if isinstance(module, nn.BatchNorm2d) and own and all(p in reached for p in own):
            freeze_statistics(module)
    for parameter in reached:
        parameter.requires_grad_(False)


def _maps(network: Backbone, height: int, width: int) -> dict[str, Tensor]:
    with _evaluating(network):
        return network.features(_image(network, height, width))


def _image(network: Backbone, height: int, width: int) -> Tensor:
    like = next(network.parameters())
    pixels = torch.linspace(-1, 1, 3 * height * width, device=like.device, dtype=like.dtype)
    return pixels.view(1, 3, height, width)


def _parameters_of(maps: list[Tensor]) -> set[nn.Parameter]:
    """The leaves of the graph that the maps end."""
    waiting, seen, leaves = [x.grad_fn for x in maps], set(), set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(leaf := getattr(node, "variable", None), nn.Parameter):
            leaves.add(leaf)
        waiting += [parent for parent, _ in node.next_functions]
    return leaves


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """In evaluation mode, which moves no statistics and draws nothing; every module's own mode comes back."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _told(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else f"{shape[0]} channels of {shape[1]}x{shape[2]}"
