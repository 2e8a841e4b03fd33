"""The paper's detector, made of Detectron2's parts."""

import torch
from torch import Tensor, nn

from backbones.base import Backbone, split_at
from detection.engines.base import Engine
from detection.engines.config import C4_STRIDE, C4Config
from detection.engines.detectron2_parts import (
    Boxes,
    Matcher,
    Res5ROIHeads,
    ROIPooler,
    convert_boxes_to_pooler_format,
)
from detection.engines.detectron2_rcnn import (
    Detectron2Engine,
    SeededROIHeads,
    box_predictor,
    proposal_network,
)
from detection.model.config import C4HeadConfig

MAP = "c4"
"""Name of the one map."""


class Detectron2C4(Detectron2Engine):
    """Trunk, Detectron2's `RPN` and `Res5ROIHeads`, whose `res5` is the tail of our backbone."""

    def __init__(self, config: C4Config, backbone: Backbone, num_classes: int):
        super().__init__(backbone, num_classes)
        split = split_at(backbone, C4_STRIDE)
        self.proposal_generator = proposal_network(
            config.rpn, split.channels, {MAP: C4_STRIDE}, [config.rpn.anchor_sizes], config.rpn_channels
        )
        self.roi_heads = _heads(config.box_head, _Tail(self), split.tail_channels, num_classes)
        self.roi_heads.chunk = config.roi_chunk

    def maps(self, images: Tensor) -> dict[str, Tensor]:
        return {MAP: split_at(self.backbone, C4_STRIDE).trunk(images)}


class _Tail(nn.Module):
    """The engine's backbone from its split on. Owns no weights: they are the backbone's."""

    def __init__(self, engine: Engine):
        super().__init__()
        self.owner = (engine,)  # in a tuple, which hides it from `modules()` and the state

    def forward(self, crops: Tensor) -> Tensor:
        """`[R, C, h, w]` to `[R, C', 1, 1]`, the mean that the heads take."""
        maps = split_at(self.owner[0].backbone, C4_STRIDE).tail(crops)
        return maps.mean(dim=(2, 3), keepdim=True)


class _Heads(SeededROIHeads, Res5ROIHeads):
    """chunk: regions whose crops run at once in evaluation."""

    chunk: int

    def _shared_roi_transform(self, features: list[Tensor], boxes: list[Boxes]) -> Tensor:
        regions = convert_boxes_to_pooler_format(boxes)
        (pooler,) = self.pooler.level_poolers
        # In training, batch normalisation sees all regions at once.
        chunks = regions.split(len(regions) if self.training else self.chunk)
        feature_map = features[0].contiguous()  # as RoIAlign would make it, once for every chunk
        return torch.cat([self.res5(pooler(feature_map, chunk)) for chunk in chunks])


def _heads(config: C4HeadConfig, tail: nn.Module, channels: int, num_classes: int) -> _Heads:
    """The second stage. channels: of what the tail gives."""
    return _Heads(
        num_classes=num_classes,
        batch_size_per_image=config.batch_size_per_image,
        positive_fraction=config.positive_fraction,
        proposal_matcher=Matcher([config.iou_threshold], [0, 1]),
        in_features=[MAP],
        pooler=ROIPooler(config.crop_size, [1 / C4_STRIDE], 0, "ROIAlignV2"),
        res5=tail,
        box_predictor=box_predictor(config, channels, num_classes),
    )
