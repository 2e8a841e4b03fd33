"""Faster R-CNN on a feature pyramid, made of Detectron2's parts."""

from collections.abc import Sequence

from torch import Tensor

from backbones.base import Backbone as Network
from backbones.base import FeatureInfo
from detection.engines.config import FpnConfig
from detection.engines.detectron2_parts import (
    FPN,
    Backbone,
    FastRCNNConvFCHead,
    LastLevelMaxPool,
    Matcher,
    ROIPooler,
    ShapeSpec,
    StandardROIHeads,
)
from detection.engines.detectron2_rcnn import (
    Detectron2Engine,
    SeededROIHeads,
    box_predictor,
    proposal_network,
)
from detection.engines.fpn import PYRAMID_STRIDES, pyramid_maps
from detection.model.config import BoxHeadConfig


class Detectron2Fpn(Detectron2Engine):
    """Backbone, Detectron2's `FPN`, `RPN` and `StandardROIHeads`."""

    divisor = PYRAMID_STRIDES[-1]

    def __init__(self, config: FpnConfig, backbone: Network, num_classes: int):
        super().__init__(backbone, num_classes)
        infos = pyramid_maps(backbone)
        self.fpn = FPN(
            _GivenMaps(infos),
            [info.name for info in infos],
            config.fpn_channels,
            top_block=LastLevelMaxPool(),
        )
        strides = {name: shape.stride for name, shape in self.fpn.output_shape().items()}
        sizes = config.anchor_sizes(list(strides.values()))
        self.proposal_generator = proposal_network(config.rpn, config.fpn_channels, strides, sizes)
        del strides["p6"]  # for proposals only
        self.roi_heads = _heads(config.box_head, strides, config.fpn_channels, num_classes)

    def maps(self, images: Tensor) -> dict[str, Tensor]:
        return self.fpn(self.backbone.features(images))


class _GivenMaps(Backbone):
    """Hands the backbone's maps to `FPN`, which would own the network otherwise."""

    def __init__(self, infos: Sequence[FeatureInfo]):
        super().__init__()
        self.shapes = {info.name: ShapeSpec(channels=info.channels, stride=info.stride) for info in infos}

    def forward(self, maps: dict[str, Tensor]) -> dict[str, Tensor]:
        return maps

    def output_shape(self) -> dict[str, ShapeSpec]:
        return self.shapes


class _Heads(SeededROIHeads, StandardROIHeads):
    pass


def _heads(config: BoxHeadConfig, strides: dict[str, int], channels: int, num_classes: int) -> _Heads:
    """The second stage. strides: of the maps that proposals are cropped from, by name."""
    side = config.pooled_size
    return _Heads(
        num_classes=num_classes,
        batch_size_per_image=config.batch_size_per_image,
        positive_fraction=config.positive_fraction,
        proposal_matcher=Matcher([config.iou_threshold], [0, 1]),
        box_in_features=list(strides),
        box_pooler=ROIPooler(side, [1 / stride for stride in strides.values()], 0, "ROIAlignV2"),
        box_head=FastRCNNConvFCHead(
            ShapeSpec(channels=channels, height=side, width=side),
            conv_dims=[],
            fc_dims=[config.width, config.width],
        ),
        box_predictor=box_predictor(config, config.width, num_classes),
    )
