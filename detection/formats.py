"""What every detection engine is given and gives back, key by key.

Letters: `N` images, `H W` pixels, `R` boxes of one image, `K` classes.

Images    list of N tensors `[3, H, W]`, float32, RGB, in 0..1, each already at the size at which the
          detector looks at it (`detection.data.augment.placed_image` does that as Detectron2 does, with
          Pillow's antialiased bilinear filter on 8-bit pixels). Sizes may differ; the engine normalises with
          the backbone's mean and deviation and pads with zeros: to the largest image of the batch, and with
          a pyramid to a multiple of 32.
Boxes     `[R, 4]` float32 xyxy in pixels of the image as given, 0 <= x1 < x2 <= W, 0 <= y1 < y2 <= H.
Labels    `[R]` int64 in 0..K-1; there is no label for the background.
Targets   one `Target` per image. R = 0 is a picture without objects and trains the background.
Sampling  anchors and proposals for the losses are drawn by `detection.model.boxes.sample` from generators
          that `detection.model.boxes.generator` makes of the target's seed: the same ones in every engine.
Losses    `loss_rpn_cls`, `loss_rpn_loc`, `loss_cls`, `loss_box_reg`, scalars; their sum is minimised.
          The names and the divisors are Detectron2's.
"""

from typing import NotRequired, TypedDict

from torch import Tensor


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
