"""What every detection engine is given and gives back, key by key.

Letters: `N` images, `H W` pixels, `R` boxes of one image, `K` classes.

Images    list of N tensors `[3, H, W]`, float32, RGB, in 0..1, each already at the size at which the
          detector looks at it (`detection.data.resize` does that as Detectron2 does, with Pillow's
          antialiased bilinear filter on 8-bit pixels). Sizes may differ; the engine normalises with
          the backbone's mean and deviation and pads with zeros: to the largest image of the batch, and with
          a pyramid to a multiple of 32.
Boxes     `[R, 4]` float32 xyxy in pixels of the image as given, 0 <= x1 < x2 <= W, 0 <= y1 < y2 <= H.
Labels    `[R]` int64 in 0..K-1; there is no label for the background.
Targets   one `Target` per image. R = 0 is a picture without objects and trains the background.
Sampling  anchors and proposals for the losses are drawn by `detection.boxes.sample` from generators that
          `detection.boxes.generator` makes of the target's seed: the same ones in every engine.
Losses    `loss_rpn_cls`, `loss_rpn_loc`, `loss_cls`, `loss_box_reg`, scalars; their sum is minimised.
          The names and the divisors are Detectron2's.
"""

import copy
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NotRequired, TypedDict

import torch
from torch import Tensor, nn

from backbones.base import Backbone, Fusible

log = logging.getLogger(__name__)


class Target(TypedDict):
    """Ground truth of one image, without crowd regions.

    seed: of the anchors and proposals that are sampled, 0..2^63 - 1; without it torch's global generator
    draws them, as in Detectron2."""

    boxes: Tensor
    labels: Tensor
    seed: NotRequired[int]


class Prediction(TypedDict):
    """Detections of one image, best score first. scores: `[R]` float32 in 0..1."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor


class Engine(nn.Module, ABC):
    """A detector of one architecture over some backbone.

    `losses` and `predict` are two methods, so that no return type depends on a mode; batch
    normalisation and sampling follow `train()` and `eval()` as everywhere in torch."""

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone, num_classes: int, mean: Sequence[float], std: Sequence[float]):
        """mean, std: `[3]`, of RGB in 0..1. Raises ValueError where they are not of three channels."""
        super().__init__()
        check_rgb(mean, std)
        self.num_classes = num_classes
        self.backbone = backbone
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    @abstractmethod
    def losses(self, images: list[Tensor], targets: list[Target]) -> dict[str, Tensor]:
        """Losses of a batch; raises FloatingPointError when proposals are not finite."""

    @abstractmethod
    def predict(self, images: list[Tensor]) -> list[Prediction]:
        """Detections in pixels of the images as given."""

    def for_inference(self) -> "Engine":
        """A copy with the same detections, found faster: batch norm folded, maps in channels_last memory.

        It can be neither trained nor stored; the engine itself stays as it is. Where the backbone's norms
        cannot be folded, the log says why, and they stay."""
        twin = copy.deepcopy(self, {id(self.backbone): _fused(self.backbone)})
        return twin.to(memory_format=torch.channels_last).eval().requires_grad_(False)


def _fused(backbone: Backbone) -> nn.Module:
    if isinstance(backbone, Fusible):
        try:
            return backbone.fuse()
        except ValueError as error:
            log.info("The backbone is not fused for inference: %s", error)
    return copy.deepcopy(backbone)


def check_rgb(mean: Sequence[float], std: Sequence[float]) -> None:
    """Raises ValueError unless images are normalised channel by channel of RGB."""
    for key, values in (("mean", mean), ("std", std)):
        if len(values) != 3:
            raise ValueError(f"preprocessing.{key} has {len(values)} values, expected 3: detection reads RGB")
