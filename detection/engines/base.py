"""What every engine does. What it is given and gives back, key by key: `detection.formats`."""

import copy
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from backbones.base import Backbone, Fusible
from detection.formats import Prediction, Target, check_images, check_targets

log = logging.getLogger(__name__)

LEAST_SIDE = 32
"""Pixels to which smaller images are padded: no network of stride 32 has to look at less."""


class Engine(nn.Module, ABC):
    """A detector of one architecture over some backbone.

    `losses` and `predict` are two methods, so that no return type depends on a mode; batch
    normalisation and sampling follow `train()` and `eval()` as everywhere in torch. Subclasses write
    `compute_losses` and `detect`."""

    mean: Tensor
    std: Tensor
    divisor: ClassVar[int] = 1
    """Of the sides of a batch of images."""

    def __init__(self, backbone: Backbone, num_classes: int):
        """The backbone's `preprocessing` normalises images. Raises ValueError unless it is of RGB."""
        super().__init__()
        self.num_classes = num_classes
        self.backbone = backbone
        for name in ("mean", "std"):
            values = torch.tensor(getattr(backbone.preprocessing, name))
            if len(values) != 3:
                raise ValueError(
                    f"preprocessing.{name} has {len(values)} values, expected 3: detection reads RGB"
                )
            self.register_buffer(name, values.view(3, 1, 1), persistent=False)

    def losses(self, images: list[Tensor], targets: list[Target]) -> dict[str, Tensor]:
        """Losses of a batch.

        Raises FloatingPointError when proposals are not finite, ValueError for images or targets of another
        form than `detection.formats` says; values of targets on a GPU are not looked at."""
        self._check(images)
        if not images:
            raise ValueError("no images to compute losses of")
        check_targets(targets, images, self.num_classes)
        return self.compute_losses(images, targets)

    def predict(self, images: list[Tensor]) -> list[Prediction]:
        """Detections in pixels of the images as given.

        Raises ValueError for images of another form than `detection.formats` says."""
        self._check(images)
        return self.detect(images) if images else []

    @abstractmethod
    def compute_losses(self, images: list[Tensor], targets: list[Target]) -> dict[str, Tensor]:
        """`losses` of what has been checked."""

    @abstractmethod
    def detect(self, images: list[Tensor]) -> list[Prediction]:
        """`predict` of what has been checked."""

    def _check(self, images: list[Tensor]) -> None:
        check_images(images)
        if (kind := next(self.parameters()).dtype) != torch.float32:
            raise ValueError(
                f"the weights are of {kind}, but detection computes in torch.float32: call float(); "
                "half precision is torch.autocast's, trainer.precision=bf16-mixed in training"
            )

    def batch_sides(self, sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
        """Height and width to which images of `sizes` (H, W) are padded in one batch."""
        height, width = (max(LEAST_SIDE, *sides) for sides in zip(*sizes, strict=True))
        return -(-height // self.divisor) * self.divisor, -(-width // self.divisor) * self.divisor

    def for_inference(self, fuse: bool = True) -> "Engine":
        """A copy with the same detections, found faster: batch norm folded, maps in channels_last memory.

        It can be neither trained nor stored; the engine itself stays as it is. Where the backbone's norms
        cannot be folded, the log says why, and they stay. fuse: fold them; False: for autocast, which a fused
        network of cells refuses."""
        twin = copy.deepcopy(self, {id(self.backbone): _fused(self.backbone)} if fuse else None)
        return twin.to(memory_format=torch.channels_last).eval().requires_grad_(False)


def _fused(backbone: Backbone) -> nn.Module:
    if isinstance(backbone, Fusible):
        try:
            return backbone.fuse()
        except ValueError as error:
            log.info("The backbone is not fused for inference: %s", error)
    return copy.deepcopy(backbone)
