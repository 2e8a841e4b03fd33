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

from collections.abc import Mapping, Sequence
from typing import NotRequired, TypedDict

import torch
from torch import Tensor

from backbones.words import counted

BEYOND = 1.0
"""Pixels by which a box may leave its image: what is scaled is rounded."""


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


def check_images(images: Sequence[Tensor]) -> None:
    """Raises ValueError for the first that is not of this form; looks at no pixel, so no GPU waits."""
    if isinstance(images, Tensor):
        raise ValueError(f"images are one tensor {tuple(images.shape)}, expected a list of [3, H, W]")
    for place, image in enumerate(images):
        if not isinstance(image, Tensor) or not image.is_floating_point():
            kind = image.dtype if isinstance(image, Tensor) else type(image).__name__
            raise ValueError(
                f"images[{place}] is of {kind}, expected a tensor of floats in 0..1: "
                "image.float() / 255 of one in uint8; `Detector` takes pictures of any kind"
            )
        if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
            raise ValueError(f"images[{place}] has shape {tuple(image.shape)}, expected [3, H, W]")


def check_targets(targets: Sequence[Target], images: Sequence[Tensor], num_classes: int) -> None:
    """Raises ValueError for the first target that is not of this form; see `check_target`."""
    if len(targets) != len(images):
        raise ValueError(f"{counted(len(targets), 'target')} for {counted(len(images), 'image')}")
    for place, (target, image) in enumerate(zip(targets, images, strict=True)):
        check_target(target, (image.shape[1], image.shape[2]), num_classes, f"targets[{place}]")


def check_target(target: Target, size: tuple[int, int], num_classes: int, where: str) -> None:
    """Raises ValueError unless the target is of this form.

    size: (H, W) of the image. where: names the target for the message. Shapes and types are always checked,
    values only on the CPU, where targets are made: elsewhere it would wait for the GPU."""
    if not isinstance(target, Mapping):
        raise ValueError(f"{where}: {type(target).__name__}, expected a dictionary of boxes and labels")
    for key in ("boxes", "labels"):
        if not isinstance(value := target.get(key), Tensor):
            raise ValueError(f"{where}: {key} are no tensor, but {type(value).__name__}")
    boxes, labels = target["boxes"], target["labels"]
    if boxes.ndim != 2 or boxes.shape[1] != 4 or boxes.dtype != torch.float32:
        raise ValueError(f"{where}: boxes are {_told(boxes)}, expected [R, 4] of torch.float32")
    if labels.shape != boxes.shape[:1] or labels.dtype != torch.int64:
        raise ValueError(f"{where}: labels are {_told(labels)}, expected [{len(boxes)}] of torch.int64")
    if boxes.device.type != "cpu" or labels.device.type != "cpu":
        return
    limits = boxes.new_tensor([size[1], size[0]]) + BEYOND
    low, high = boxes[:, :2], boxes[:, 2:]
    good = ((low >= -BEYOND) & (low < high) & (high <= limits)).all(dim=1)  # false where one is not a number
    if not good.all():
        first = int(good.logical_not().nonzero()[0])
        raise ValueError(
            f"{where}: boxes[{first}] = {boxes[first].tolist()}, expected 0 <= x1 < x2 <= {size[1]} and "
            f"0 <= y1 < y2 <= {size[0]} (x1, y1, x2, y2 in pixels of the image as given)"
        )
    known = (labels >= 0) & (labels < num_classes)
    if not known.all():
        first = int(known.logical_not().nonzero()[0])
        raise ValueError(
            f"{where}: labels[{first}] = {int(labels[first])}, expected 0..{num_classes - 1}: places among "
            "the categories, without one for the background"
        )


def _told(tensor: Tensor) -> str:
    return f"{list(tensor.shape)} of {tensor.dtype}"
