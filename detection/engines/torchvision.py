"""The default engine: Faster R-CNN on a feature pyramid, made of torchvision's operations."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from backbones.base import Backbone
from detection.engines.base import Engine, Prediction, Target
from detection.fpn import PYRAMID_STRIDES, FpnConfig, wrong_strides
from detection.heads import BoxHead
from detection.rpn import RegionProposals


@dataclass(kw_only=True)
class TorchvisionFpnConfig(FpnConfig):
    """Group `detector`: `torchvision_fpn`."""

    engine: ClassVar[str] = "torchvision_fpn"
    name: str = "torchvision_fpn"

    def build(
        self, backbone: Backbone, num_classes: int, mean: Sequence[float], std: Sequence[float]
    ) -> "TorchvisionFpn":
        return TorchvisionFpn(self, backbone, num_classes, mean, std)


class TorchvisionFpn(Engine):
    """Backbone, pyramid p2..p6, proposals, boxes; `image sizes` are (H, W) before padding."""

    def __init__(
        self,
        config: FpnConfig,
        backbone: Backbone,
        num_classes: int,
        mean: Sequence[float],
        std: Sequence[float],
    ):
        super().__init__()
        infos = [info for info in backbone.feature_info if info.stride in PYRAMID_STRIDES]
        strides = tuple(info.stride for info in infos)
        if strides != PYRAMID_STRIDES:
            raise ValueError(wrong_strides(backbone))
        for key, values in (("mean", mean), ("std", std)):
            if len(values) != 3:
                raise ValueError(
                    f"preprocessing.{key} has {len(values)} values, expected 3: detection reads RGB"
                )
        self.num_classes = num_classes
        self.backbone = backbone
        self.names = [info.name for info in infos]
        self.fpn = FeaturePyramidNetwork(
            [info.channels for info in infos], config.fpn_channels, extra_blocks=LastLevelMaxPool()
        )
        self.rpn = RegionProposals(config.rpn, config.fpn_channels, (*strides, 2 * strides[-1]))
        self.box_head = BoxHead(config.box_head, config.fpn_channels, strides, num_classes)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def losses(self, images: list[Tensor], targets: list[Target]) -> dict[str, Tensor]:
        pyramid, sizes = self._pyramid(images)
        proposals = self.rpn(pyramid)
        losses = self.rpn.losses(proposals, targets)
        sampled = self.box_head.sample(self.rpn.select(proposals, sizes), targets)
        logits, deltas = self.box_head(pyramid[:-1], [image.boxes for image in sampled])
        return losses | self.box_head.losses(logits, deltas, sampled)

    def predict(self, images: list[Tensor]) -> list[Prediction]:
        pyramid, sizes = self._pyramid(images)
        proposals = self.rpn.select(self.rpn(pyramid), sizes)
        logits, deltas = self.box_head(pyramid[:-1], proposals)
        return self.box_head.detect(logits, deltas, proposals, sizes)

    def _pyramid(self, images: list[Tensor]) -> tuple[list[Tensor], list[tuple[int, int]]]:
        """Maps p2..p6 `[N, C, H, W]` and the image sizes."""
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        divisor = PYRAMID_STRIDES[-1]
        height = -(-max(size[0] for size in sizes) // divisor) * divisor
        width = -(-max(size[1] for size in sizes) // divisor) * divisor
        batch = torch.stack(
            [
                F.pad((image - self.mean) / self.std, (0, width - image.shape[2], 0, height - image.shape[1]))
                for image in images
            ]
        )
        features = self.backbone.features(batch)
        pyramid = self.fpn(OrderedDict((name, features[name]) for name in self.names))
        return list(pyramid.values()), sizes
