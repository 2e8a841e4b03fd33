"""The maps of a backbone as they really are: checked before a training, and frozen up to one of them."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from backbones.base import Backbone
from detection.backbone import freeze_statistics

DRY_RUN_SIZES = ((128, 192), (160, 96))
"""Height and width in pixels: multiples of 32, as engines pad, not square, and no multiple of each other, so
that a network for one size, and maps that are rounded otherwise, show."""


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


def freeze_stages(network: Backbone, level: int) -> None:
    """Freezes all that the maps up to `c<level>` are computed from, with the statistics of its norms.

    Those parameters get no gradient. level: log2 of a stride; 2 is Detectron2's FREEZE_AT = 2 of a ResNet.
    Which parameters they are is read from the graph of a small run, so any network will do.
    Raises ValueError where no map is that early."""
    names = [info.name for info in network.feature_info if info.stride <= 2**level]
    if not names:
        first = network.feature_info[0].name
        raise ValueError(f"backbone.freeze_at = {level}, but the first map of this network is {first}")
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
    like = next(network.parameters())
    pixels = torch.linspace(-1, 1, 3 * height * width, device=like.device, dtype=like.dtype)
    with _evaluating(network):
        return network.features(pixels.view(1, 3, height, width))


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
