"""Our backbones in plain Detectron2: importing this module adds them to its `BACKBONE_REGISTRY`.

    import detection.engines.detectron2 as nasnet
    cfg = get_cfg(); nasnet.add_config(cfg)
    cfg.MODEL.BACKBONE.NAME = "build_nasnet_fpn_backbone"
    cfg.MODEL.NASNET.NAME = "backbone.safetensors"

Detectron2's compiled extension is not needed. `torchvision_state` translates the weights of a
`GeneralizedRCNN` with a pyramid into those of our torchvision engine, which computes the same.
"""

import re
import warnings
from collections.abc import Mapping

from torch import Tensor

from backbones.base import Backbone as Network
from backbones.zoo import create
from detection.backbone import freeze_statistics

with warnings.catch_warnings():
    # torch.jit.script and pkg_resources, both deprecated, both used while Detectron2 is imported
    warnings.simplefilter("ignore")
    try:
        from detectron2.config import CfgNode
        from detectron2.layers import ShapeSpec
        from detectron2.modeling import BACKBONE_REGISTRY, Backbone
        from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool
    except ImportError as error:
        raise ImportError(f"Detectron2 is not installed ({error}): run make detectron2") from error


def add_config(cfg: CfgNode) -> None:
    """Adds `cfg.MODEL.NASNET` with its defaults and the pyramid's inputs c2..c5."""
    cfg.MODEL.NASNET = CfgNode()
    cfg.MODEL.NASNET.NAME = "nasnet_a_mobile"
    """A name of the zoo, a genotype.json, or a backbone.safetensors (with its weights)."""
    cfg.MODEL.NASNET.CELLS_PER_STAGE = 0
    """0: what the name says. A genotype.json needs it and FILTERS."""
    cfg.MODEL.NASNET.FILTERS = 0
    cfg.MODEL.NASNET.FREEZE_STATISTICS = True
    """Batch normalisation uses the stored statistics; right for loaded weights only."""
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


@BACKBONE_REGISTRY.register()
def build_nasnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FeatureBackbone:
    """Maps c2..c5 of the network that `cfg.MODEL.NASNET` names."""
    settings = cfg.MODEL.NASNET
    overrides = {"cells_per_stage": settings.CELLS_PER_STAGE, "filters": settings.FILTERS}
    network = create(
        settings.NAME,
        in_channels=input_shape.channels,
        **{name: value for name, value in overrides.items() if value},
    )
    network.remove_classifier()
    if settings.FREEZE_STATISTICS:
        freeze_statistics(network)
    return FeatureBackbone(network)


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


_RENAMES = (
    (r"backbone\.bottom_up\.network\.(.*)", r"backbone.\1"),
    (r"backbone\.fpn_lateral(\d)\.(.*)", lambda m: f"fpn.inner_blocks.{int(m[1]) - 2}.0.{m[2]}"),
    (r"backbone\.fpn_output(\d)\.(.*)", lambda m: f"fpn.layer_blocks.{int(m[1]) - 2}.0.{m[2]}"),
    (r"proposal_generator\.rpn_head\.conv\.(.*)", r"rpn.head.conv.0.0.\1"),
    (r"proposal_generator\.rpn_head\.objectness_logits\.(.*)", r"rpn.head.cls_logits.\1"),
    (r"proposal_generator\.rpn_head\.anchor_deltas\.(.*)", r"rpn.head.bbox_pred.\1"),
    (r"roi_heads\.box_head\.(fc[12])\.(.*)", r"box_head.\1.\2"),
    (r"roi_heads\.box_predictor\.cls_score\.(.*)", r"box_head.class_logits.\1"),
    (r"roi_heads\.box_predictor\.bbox_pred\.(.*)", r"box_head.box_deltas.\1"),
)


def torchvision_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a Detectron2 `GeneralizedRCNN` over `build_nasnet_fpn_backbone` under our names.

    The anchors, which are computed, are left out. Raises ValueError for any other unknown name."""
    renamed = {}
    for name, tensor in state.items():
        if name.startswith("proposal_generator.anchor_generator."):
            continue
        for pattern, replacement in _RENAMES:
            if match := re.fullmatch(pattern, name):
                renamed[replacement(match) if callable(replacement) else match.expand(replacement)] = tensor
                break
        else:
            raise ValueError(f"unknown weight {name!r}: not a Faster R-CNN with a pyramid over our backbone")
    return renamed
