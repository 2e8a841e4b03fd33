"""What a detector costs, by part: parameters, multiply-adds and activations of one image. Nothing is trained.

Everything runs on PyTorch's meta device, which computes shapes alone: seconds for any size, and no memory.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from backbones.base import split_at
from backbones.build import build
from backbones.cell import CellModule
from backbones.layers import Pool
from backbones.spec import NetworkSpec
from backbones.timm_spec import TimmSpec
from detection.data.sizing import check_side
from detection.engines.config import C4_STRIDE, ENGINES, EngineConfig
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
        engine = config.build(backbone, num_classes).eval()
        image = torch.empty(1, 3, *size)
        if isinstance(engine, TorchvisionC4):
            return _c4(engine, image)
        assert isinstance(engine, TorchvisionFpn)
        return _fpn(engine, image.new_empty(1, image.shape[1], *engine.batch_sides([size])))


def _of_torchvision(config: EngineConfig) -> EngineConfig:
    """The same detector's configuration for torchvision's engine: what it costs is a matter of its kind."""
    kind = ENGINES[f"torchvision_{config.head}"]
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return kind(**values | {"name": kind.engine})


def _c4(engine: TorchvisionC4, image: Tensor) -> list[Part]:
    split = split_at(engine.backbone, C4_STRIDE)
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
