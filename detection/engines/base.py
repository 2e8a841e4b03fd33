"""What every engine does. What it is given and gives back, key by key: `detection.formats`."""

import copy
import logging
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from backbones.base import Backbone, Fusible
from detection.formats import Prediction, Target

log = logging.getLogger(__name__)


class Engine(nn.Module, ABC):
    """A detector of one architecture over some backbone.

    `losses` and `predict` are two methods, so that no return type depends on a mode; batch
    normalisation and sampling follow `train()` and `eval()` as everywhere in torch."""

    mean: Tensor
    std: Tensor

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
