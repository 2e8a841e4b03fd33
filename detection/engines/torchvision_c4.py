"""The paper's detector, made of torchvision's operations."""

import torch
from torch import Tensor

from backbones.base import Backbone, split_at
from detection.engines.config import C4_STRIDE, C4Config
from detection.engines.torchvision import TorchvisionEngine
from detection.model.heads import SecondStage
from detection.model.roi_align import roi_align, rows
from detection.model.rpn import RegionProposals


class TorchvisionC4(TorchvisionEngine):
    """Trunk, proposals, and for each of them a crop, the tail, the mean of its map, class and box."""

    def __init__(self, config: C4Config, backbone: Backbone, num_classes: int):
        super().__init__(backbone, num_classes)
        split = split_at(backbone, C4_STRIDE)
        sizes = [config.rpn.anchor_sizes]
        self.rpn = RegionProposals(config.rpn, split.channels, [C4_STRIDE], sizes, config.rpn_channels)
        self.box_head = SecondStage(config.box_head, split.tail_channels, num_classes)
        self.crop_size = config.box_head.crop_size
        self.roi_chunk = config.roi_chunk

    def maps_of(self, batch: Tensor) -> list[Tensor]:
        """One map, at stride 16. The batch is as large as its largest image, as with Detectron2's C4."""
        return [split_at(self.backbone, C4_STRIDE).trunk(batch)]

    def score(self, maps: list[Tensor], boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        (feature_map,) = maps
        rois = rows(boxes)
        # In training, batch normalisation sees all regions at once.
        chunks = rois.split(len(rois) if self.training else self.roi_chunk)
        # RoIAlign gives the plain layout, whatever the map's is; the tail is faster in the weights' own.
        like_map = feature_map.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if like_map else torch.contiguous_format
        feature_map = feature_map.float().contiguous()  # as RoIAlign would make it, once for every chunk
        crops = (roi_align(feature_map, chunk, self.crop_size, C4_STRIDE) for chunk in chunks)
        hidden = [self.hidden(chunk.contiguous(memory_format=layout)) for chunk in crops]
        return self.box_head.score(torch.cat(hidden))

    def hidden(self, crops: Tensor) -> Tensor:
        """`[R, C]`, what the second stage knows of crops `[R, channels, crop_size, crop_size]`."""
        return split_at(self.backbone, C4_STRIDE).tail(crops).mean(dim=(2, 3))
