"""What every detection engine is given and gives back, key by key.

Letters: `N` images, `H W` pixels, `R` boxes of one image, `K` classes.

Images    list of N tensors `[3, H, W]`, float32, RGB, in 0..1, each already at the size at which the
          detector looks at it (`detection.data.resize` does that as Detectron2 does, with Pillow's
          antialiased bilinear filter on 8-bit pixels). Sizes may differ; the engine normalises with
          the backbone's mean and deviation and pads with zeros to a multiple of 32.
Boxes     `[R, 4]` float32 xyxy in pixels of the image as given, 0 <= x1 < x2 <= W, 0 <= y1 < y2 <= H.
Labels    `[R]` int64 in 0..K-1; there is no label for the background.
Targets   one `Target` per image. R = 0 is a picture without objects and trains the background.
Losses    `loss_rpn_cls`, `loss_rpn_loc`, `loss_cls`, `loss_box_reg`, scalars; their sum is minimised.
          The names and the divisors are Detectron2's.
"""

from abc import ABC, abstractmethod
from typing import TypedDict

from torch import Tensor, nn

from backbones.base import Backbone


class Target(TypedDict):
    """Ground truth of one image, without crowd regions."""

    boxes: Tensor
    labels: Tensor


class Prediction(TypedDict):
    """Detections of one image, best score first. scores: `[R]` float32 in 0..1."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor


class Engine(nn.Module, ABC):
    """A detector of one architecture over some backbone.

    `losses` and `predict` are two methods, so that no return type depends on a mode; batch
    normalisation and sampling follow `train()` and `eval()` as everywhere in torch."""

    num_classes: int
    backbone: Backbone

    @abstractmethod
    def losses(self, images: list[Tensor], targets: list[Target]) -> dict[str, Tensor]:
        """Losses of a batch; raises FloatingPointError when proposals are not finite."""

    @abstractmethod
    def predict(self, images: list[Tensor]) -> list[Prediction]:
        """Detections in pixels of the images as given."""
