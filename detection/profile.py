"""What a detector costs, by part: parameters, multiply-adds and activations of one image. Nothing is trained.

    python -m detection.profile detector.safetensors --size 600 800
    python -m detection.profile --name nasnet_a_large --experiment table4_nasnet_a_large_1200
    python -m detection.profile --name timm/resnet50 --detector torchvision_fpn --size 800 1333

Everything runs on PyTorch's meta device, which computes shapes alone: seconds for any size, and no memory.
"""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from backbones.build import TimmSpec, build, read_spec
from backbones.cell import CellModule
from backbones.layers import Pool
from backbones.spec import NetworkSpec
from backbones.weights import read_safetensors
from backbones.zoo import resolve_spec
from detection.c4 import C4_STRIDE, C4Config
from detection.data import check_side
from detection.detector import Description
from detection.engines.base import EngineConfig
from detection.engines.registry import ENGINES
from detection.engines.torchvision import TorchvisionFpn
from detection.engines.torchvision_c4 import TorchvisionC4

_KEPT = (nn.Conv2d, nn.Linear, nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.MaxPool2d, Pool, CellModule)
"""Modules whose outputs are counted as activations, as `backbones.costs` does."""


@dataclass(frozen=True)
class Part:
    """Costs of one part of a detector, for one image or, of the second stage, for one region.

    times: how often it runs for an image. multiply_adds: of convolutions and matrix products, once.
    activation_bytes: float32 outputs of every convolution, norm and pooling and of every cell, once."""

    name: str
    times: int
    parameters: int
    multiply_adds: int
    activation_bytes: int


def profile(
    config: EngineConfig, spec: NetworkSpec | TimmSpec, num_classes: int, size: tuple[int, int]
) -> list[Part]:
    """Parts in order of execution for an image of `size` (H, W) and as many proposals as evaluation keeps.

    The cost of cropping regions is not counted.
    Raises ValueError for a network that the detector cannot be built on, or a size that it cannot see."""
    for side in size:
        check_side("size", side)
    config = _of_torchvision(config)
    with torch.device("meta"), torch.no_grad():
        backbone = build(spec, num_classes=1)
        backbone.remove_classifier()
        engine = config.build(backbone, num_classes, [0.5] * 3, [0.5] * 3).eval()
        image = torch.empty(1, 3, *size)
        if isinstance(engine, TorchvisionC4):
            return _c4(engine, image)
        assert isinstance(engine, TorchvisionFpn)
        divisor = engine.rpn.strides[-2]
        height, width = (-(-side // divisor) * divisor for side in size)
        return _fpn(engine, image.new_empty(1, image.shape[1], height, width))


def _of_torchvision(config: EngineConfig) -> EngineConfig:
    """The same detector's configuration for torchvision's engine: what it costs is a matter of its kind."""
    kind = ENGINES[f"torchvision_{config.head}"]
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return kind(**values | {"name": kind.engine})


def _c4(engine: TorchvisionC4, image: Tensor) -> list[Part]:
    split = engine.backbone.split(C4_STRIDE)
    tail = [engine.backbone.get_submodule(name) for name in split.tail_modules]
    feature_map, trunk = _measured("trunk", [engine.backbone], lambda: split.trunk(image))
    proposals = engine.rpn.config.post_nms_test
    _, first = _measured("proposals", [engine.rpn], lambda: engine.rpn.head([feature_map]))
    crop = image.new_empty(1, split.channels, engine.crop_size, engine.crop_size)
    found, second = _measured("region", tail, lambda: split.tail(crop).mean(dim=(2, 3)), proposals)
    _, scores = _measured("class and box", [engine.box_head], lambda: engine.box_head.score(found), proposals)
    trunk = dataclasses.replace(trunk, parameters=trunk.parameters - second.parameters)
    return [trunk, first, second, scores]


def _fpn(engine: TorchvisionFpn, image: Tensor) -> list[Part]:
    names = engine.names
    features, backbone = _measured("backbone", [engine.backbone], lambda: engine.backbone.features(image))
    pyramid, fpn = _measured(
        "pyramid", [engine.fpn], lambda: engine.fpn({name: features[name] for name in names})
    )
    _, first = _measured("proposals", [engine.rpn], lambda: engine.rpn.head(list(pyramid.values())))
    head = engine.box_head

    def score() -> Any:
        return head.score(F.relu(head.fc2(F.relu(head.fc1(image.new_empty(1, head.fc1.in_features))))))

    _, second = _measured("class and box", [head], score, engine.rpn.config.post_nms_test)
    return [backbone, fpn, first, second]


def _measured(
    name: str, modules: Sequence[nn.Module], run: Callable[[], Any], times: int = 1
) -> tuple[Any, Part]:
    """What `run` gives on the meta device, and what it costs; modules: those that it runs."""
    activations = 0

    def keep(module: object, inputs: object, output: Tensor) -> None:
        nonlocal activations
        activations += 4 * output.numel()

    inner = {inner for module in modules for inner in module.modules() if isinstance(inner, _KEPT)}
    hooks = [module.register_forward_hook(keep) for module in inner]
    try:
        with FlopCounterMode(display=False) as flops:
            output = run()
    finally:
        for hook in hooks:
            hook.remove()
    parameters = {id(p): p.numel() for module in modules for p in module.parameters()}
    return output, Part(name, times, sum(parameters.values()), flops.get_total_flops() // 2, activations)


def _table(title: str, parts: Sequence[Part]) -> Table:
    table = Table("part", "runs", title=title)
    for heading in ("parameters", "multiply-adds each", "all", "activations each", "all"):
        table.add_column(heading, justify="right")
    for part in parts:
        table.add_row(
            part.name,
            str(part.times),
            f"{part.parameters:,}",
            f"{part.multiply_adds / 1e6:,.1f} M",
            f"{part.multiply_adds * part.times / 1e9:,.2f} B",
            f"{part.activation_bytes / 1e6:,.1f} MB",
            f"{part.activation_bytes * part.times / 1e6:,.1f} MB",
        )
    table.add_section()
    table.add_row(
        "total",
        "",
        f"{sum(part.parameters for part in parts):,}",
        "",
        f"{sum(part.multiply_adds * part.times for part in parts) / 1e9:,.2f} B",
        "",
        f"{sum(part.activation_bytes * part.times for part in parts) / 1e6:,.1f} MB",
    )
    return table


def _of_regions(config: C4Config, region: Part) -> str:
    sampled, chunk = config.box_head.batch_size_per_image, config.roi_chunk
    megabytes = region.activation_bytes / 1e6
    return (
        f"regions at once: {sampled} of each image in training, about {sampled * megabytes:,.0f} MB; "
        f"{chunk} in evaluation (detector.roi_chunk), less than {chunk * megabytes:,.0f} MB"
    )


def main(compose: Callable[[str], Any], arguments: Sequence[str] | None = None) -> int:
    """compose: an experiment's name to its `DetectionConfig`; given, as only `conf` sees Hydra."""
    parser = argparse.ArgumentParser(
        prog="python -m detection.profile", description=str(__doc__).split("\n")[0]
    )
    add = parser.add_argument
    add("weights", nargs="?", help="a detector.safetensors; or take --name")
    add("--name", metavar="NETWORK", help="a zoo name, a backbone.safetensors, or timm/<name>")
    add("--experiment", help="with --name: a file of conf/experiment, for the detector and its size")
    add("--detector", choices=list(ENGINES), help="with --name: an engine with its defaults")
    add("--classes", type=int, default=80, help="with --name (default: COCO's 80)")
    add("--size", type=int, nargs=2, metavar=("H", "W"), help="of the image as the detector sees it, pixels")
    options = parser.parse_args(arguments)
    if (options.weights is None) == (options.name is None):
        parser.error("give a detector.safetensors, or --name NETWORK")
    if options.name is not None and (options.experiment is None) == (options.detector is None):
        parser.error("--name needs --experiment or --detector")
    try:
        config, spec, classes, size = _asked_for(options, compose)
        if (size := options.size or size) is None:
            parser.error("images of this detector have no fixed size: give --size H W")
        parts = profile(config, spec, classes, tuple(size))
    except (ValueError, OSError, ImportError) as error:
        print(error, file=sys.stderr)
        return 1
    what = f"one image of {size[0]}x{size[1]} px, {classes} classes"
    title = f"{options.weights or options.name}, {config.name}: {what}"
    Console(width=130).print(_table(title, parts))
    if isinstance(config, C4Config):
        print(_of_regions(config, parts[2]))
    return 0


def _asked_for(
    options: argparse.Namespace, compose: Callable[[str], Any]
) -> tuple[EngineConfig, NetworkSpec | TimmSpec, int, tuple[int, int] | None]:
    """Detector, network, classes, and (H, W) where it is fixed."""
    if options.weights is not None:
        _, metadata = read_safetensors(options.weights, "detector")
        found = Description.read(metadata, options.weights)
        side = None if found.input_size.keep_aspect else found.input_size.min_size
        return found.config, found.spec, len(found.categories), None if side is None else (side, side)
    spec = _network(options.name)
    if options.detector is not None:
        return ENGINES[options.detector](name=options.detector), spec, options.classes, None
    config = compose(options.experiment)
    side = config.data.fixed_size
    return config.detector, spec, options.classes, None if side is None else (side, side)


def _network(name: str) -> NetworkSpec | TimmSpec:
    if not name.endswith(".safetensors"):
        return resolve_spec(name)
    _, metadata = read_safetensors(name, "backbone")
    return read_spec(metadata.get("network"), f"{name}: network")


if __name__ == "__main__":
    from conf.compose import detection_experiment

    sys.exit(main(detection_experiment))
