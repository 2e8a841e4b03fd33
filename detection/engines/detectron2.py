"""Our backbones in plain Detectron2: importing this module adds them to its `BACKBONE_REGISTRY`.

    import detection.engines.detectron2 as nasnet
    cfg = get_cfg(); nasnet.add_config(cfg)
    cfg.MODEL.BACKBONE.NAME = "build_nasnet_fpn_backbone"
    cfg.MODEL.NASNET.NAME = "backbone.safetensors"

docs/detectron2.md shows it, a LazyConfig and a training. Detectron2's compiled extension is not needed.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from backbones.base import Backbone as Network
from backbones.factory import create
from detection.engines.detectron2_parts import (
    BACKBONE_REGISTRY,
    FPN,
    Backbone,
    CfgNode,
    LastLevelMaxPool,
    ShapeSpec,
)
from detection.engines.renaming import ENGINE_AND_PLAIN, rename, reverse
from detection.model.norms import freeze_statistics as freeze


def add_config(cfg: CfgNode) -> None:
    """Adds `cfg.MODEL.NASNET` with its defaults and the pyramid's inputs c2..c5."""
    cfg.MODEL.NASNET = CfgNode()
    cfg.MODEL.NASNET.NAME = "nasnet_a_mobile"
    """A name of the zoo, a genotype.json, or a backbone.safetensors (with its weights)."""
    cfg.MODEL.NASNET.CELLS_PER_STAGE = 0
    """0: what the name says. A genotype.json needs it and FILTERS."""
    cfg.MODEL.NASNET.FILTERS = 0
    cfg.MODEL.NASNET.BATCH_NORM_MOMENTUM = 0.0
    """0: what the name says; the paper's 0.0003 needs tens of thousands of steps."""
    cfg.MODEL.NASNET.FREEZE_STATISTICS = None
    """Whether batch normalisation uses the stored statistics; None: where NAME is a weights file."""
    cfg.MODEL.FPN.IN_FEATURES = ["c2", "c3", "c4", "c5"]
    cfg.MODEL.RPN.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p2", "p3", "p4", "p5"]


class FeatureBackbone(Backbone):
    """Any backbone with `features` and `feature_info`, as Detectron2 wants it."""

    def __init__(self, network: Network):
        super().__init__()
        self.network = network
        self._shapes = {
            info.name: ShapeSpec(channels=info.channels, stride=info.stride) for info in network.feature_info
        }

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.network.features(images)

    def output_shape(self) -> dict[str, ShapeSpec]:
        return self._shapes


def feature_backbone(
    name: str, *, freeze_statistics: bool | None = None, **overrides: Any
) -> FeatureBackbone:
    """Maps c2..c5 of a network: what a LazyConfig calls.

    name, overrides: as of `backbones.create`. freeze_statistics: batch normalisation uses the stored ones,
    which fresh weights do not have; None: where `name` is a weights file."""
    network = create(name, **overrides)
    network.remove_classifier()
    if freeze_statistics is None:
        freeze_statistics = _has_weights(name)
    return FeatureBackbone(freeze(network) if freeze_statistics else network)  # type: ignore[arg-type]


def _has_weights(name: str) -> bool:
    return name.endswith(".safetensors")


@BACKBONE_REGISTRY.register()
def build_nasnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FeatureBackbone:
    """Maps c2..c5 of the network that `cfg.MODEL.NASNET` names."""
    settings = cfg.MODEL.NASNET
    overrides = {
        "cells_per_stage": settings.CELLS_PER_STAGE,
        "filters": settings.FILTERS,
        "batch_norm_momentum": settings.BATCH_NORM_MOMENTUM,
    }
    if not _has_weights(settings.NAME):  # a file has its own
        overrides["in_channels"] = input_shape.channels
    return feature_backbone(
        settings.NAME,
        freeze_statistics=settings.FREEZE_STATISTICS,
        **{name: value for name, value in overrides.items() if value},
    )


@BACKBONE_REGISTRY.register()
def build_nasnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """The pyramid p2..p6 over `build_nasnet_backbone`, with Detectron2's own FPN."""
    return FPN(
        bottom_up=build_nasnet_backbone(cfg, input_shape),
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelMaxPool(),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


def plain_state(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of `detector=detectron2_fpn` under the names of a `GeneralizedRCNN` over our backbone.

    Raises ValueError for an unknown name."""
    return rename(tensors, ENGINE_AND_PLAIN)


def engine_state(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The way back from `plain_state`."""
    return rename(tensors, reverse(ENGINE_AND_PLAIN))
