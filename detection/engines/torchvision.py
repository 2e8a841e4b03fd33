"""The default engine: Faster R-CNN on a feature pyramid, made of torchvision's operations."""

from abc import abstractmethod
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from backbones.base import Backbone, Fusible
from detection.engines.base import Engine
from detection.engines.config import FpnConfig
from detection.engines.fpn import PYRAMID_STRIDES, pyramid_maps
from detection.formats import Prediction, Target
from detection.model.heads import BoxHead, SecondStage
from detection.model.rpn import RegionProposals


class TorchvisionEngine(Engine):
    """What the engines of torchvision's operations share; `image sizes` are (H, W) before padding."""

    rpn: RegionProposals
    box_head: SecondStage

    def compute_losses(self, images: list[Tensor], targets: list[Target]) -> dict[str, Tensor]:
        maps, sizes = self.maps(images)
        proposals = self.rpn(maps)
        losses = self.rpn.losses(proposals, targets)
        sampled = self.box_head.sample(self.rpn.select(proposals, sizes), targets)
        logits, deltas = self.score(maps, [image.boxes for image in sampled])
        return losses | self.box_head.losses(logits, deltas, sampled)

    def detect(self, images: list[Tensor]) -> list[Prediction]:
        maps, sizes = self.maps(images)
        proposals = self.rpn.select(self.rpn(maps), sizes)
        logits, deltas = self.score(maps, proposals)
        return self.box_head.detect(logits, deltas, proposals, sizes)

    def maps(self, images: list[Tensor]) -> tuple[list[Tensor], list[tuple[int, int]]]:
        """Maps of the first stage, see `maps_of`, and the image sizes."""
        batch, sizes = self._batch(images)
        return self.maps_of(batch), sizes

    @abstractmethod
    def maps_of(self, batch: Tensor) -> list[Tensor]:
        """Maps `[N, C, H, W]` of the first stage, one or a pyramid of them, of normalised, padded images."""

    @abstractmethod
    def score(self, maps: list[Tensor], boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Class logits and deltas of the boxes `[R, 4]` of each image; see `SecondStage.score`."""

    def _batch(self, images: list[Tensor]) -> tuple[Tensor, list[tuple[int, int]]]:
        """Normalised images in one tensor, and the image sizes."""
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        height, width = self.batch_sides(sizes)
        batch = torch.stack(
            [
                F.pad((image - self.mean) / self.std, (0, width - image.shape[2], 0, height - image.shape[1]))
                for image in images
            ]
        )
        if isinstance(self.backbone, Fusible) and self.backbone.fused:
            batch = batch.contiguous(memory_format=torch.channels_last)
        return batch, sizes


class TorchvisionFpn(TorchvisionEngine):
    """Backbone, pyramid p2..p6, proposals, boxes."""

    divisor = PYRAMID_STRIDES[-1]
    box_head: BoxHead

    def __init__(self, config: FpnConfig, backbone: Backbone, num_classes: int):
        super().__init__(backbone, num_classes)
        infos = pyramid_maps(backbone)
        strides = (*PYRAMID_STRIDES, 2 * PYRAMID_STRIDES[-1])
        self.names = [info.name for info in infos]
        channels = config.fpn_channels
        self.fpn = FeaturePyramidNetwork(
            [info.channels for info in infos], channels, extra_blocks=LastLevelMaxPool()
        )
        self.rpn = RegionProposals(
            config.rpn, channels, strides, config.anchor_sizes(strides), hidden=channels
        )
        self.box_head = BoxHead(config.box_head, channels, PYRAMID_STRIDES, num_classes)

    def maps_of(self, batch: Tensor) -> list[Tensor]:
        """Maps p2..p6."""
        features = self.backbone.features(batch)
        pyramid = self.fpn(OrderedDict((name, features[name]) for name in self.names))
        return list(pyramid.values())

    def score(self, maps: list[Tensor], boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        return self.box_head(maps[:-1], boxes)
