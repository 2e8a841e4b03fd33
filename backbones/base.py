"""What classification and detection ask of a network, whoever built it. Letters as in `network.py`."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from backbones.spec import Preprocessing


@dataclass(frozen=True)
class FeatureInfo:
    """A map that `features` returns: its name (`c` and log2 of the stride), channels, pixels per step."""

    name: str
    channels: int
    stride: int


class BackboneSpec(Protocol):
    """Enough to build a network again; `to_dict` is what a weights file says of it."""

    @property
    def in_channels(self) -> int: ...
    @property
    def default_classes(self) -> int: ...
    def to_dict(self) -> dict[str, Any]: ...


class Split(ABC):
    """Two functions over a network's own modules: `tail(trunk(images))` is its last map.

    Made anew wherever it is wanted, by `Backbone.split`: it holds the network and no weights.
    stride: pixels of the image per step of the map. channels: of the map. tail_channels: of what the tail
    gives. tail_modules: names of the network's modules that only the tail runs.
    """

    stride: int
    channels: int
    tail_channels: int
    tail_modules: tuple[str, ...]

    @abstractmethod
    def trunk(self, images: Tensor) -> Tensor:
        """`[N, in_channels, H, W]` normalised images to the map, `[N, channels, H/stride, W/stride]`."""

    @abstractmethod
    def tail(self, crops: Tensor) -> Tensor:
        """`[R, channels, h, w]` to `[R, tail_channels, ceil(h/2), ceil(w/2)]`, after the last activation."""


class Backbone(nn.Module, ABC):
    """`[N, in_channels, H, W]` normalised images to `[N, K]` logits, and to maps.

    num_classes: K. classes: their names in the order of the logits, where known. preprocessing: travels with
    the weights. feature_info: of what `features` returns, ascending in stride. drop_path_keep: probability
    that a path of the last block survives at the end of training; below 1, `set_progress` is called.
    auxiliary: a second classifier for training, where there is one. fused: made by `fuse`.
    """

    fused = False

    spec: BackboneSpec
    num_classes: int
    classes: list[str] | None
    preprocessing: Preprocessing
    feature_info: list[FeatureInfo]
    drop_path_keep: float
    auxiliary: nn.Module | None

    def __init__(self, spec: BackboneSpec, num_classes: int | None, drop_path_keep: float) -> None:
        """num_classes: `spec.default_classes` where None. Raises ValueError for numbers out of range."""
        super().__init__()
        num_classes = spec.default_classes if num_classes is None else num_classes
        if num_classes < 1:
            raise ValueError(f"num_classes = {num_classes}, must be at least 1")
        if not 0.0 < drop_path_keep <= 1.0:
            raise ValueError(f"drop_path_keep = {drop_path_keep}, must be in (0, 1]")
        self.spec, self.num_classes, self.drop_path_keep = spec, num_classes, drop_path_keep
        self.classes = None

    @property
    def unstorable(self) -> str | None:
        """What keeps its tensors and its spec from giving it again where their shapes do not show it."""
        made = "a fused network cannot be stored; store the one it was made of, and fuse that"
        return made if self.fused else None

    @abstractmethod
    def fuse(self) -> "Backbone":
        """A copy for inference: the same logits and maps, with batch norm folded into the convolutions.

        Its weights are in channels_last, so images best are, too. Raises ValueError for batch norm without
        running statistics.
        """

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def forward_with_aux(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits and, in training where the network has the head, auxiliary logits; else None."""

    @abstractmethod
    def features(self, x: Tensor) -> dict[str, Tensor]:
        """The last map of each stride, after its activation: `{"c2": [N, C, H/4, W/4], …}`."""

    @abstractmethod
    def split(self, stride: int = 16) -> Split:
        """The network in two, cut after its last maps of that stride.

        Raises ValueError where it cannot be cut there.
        """

    @abstractmethod
    def set_progress(self, progress: float) -> None:
        """Sets the drop-path schedule. progress: optimiser steps done / planned, in [0, 1]."""

    @abstractmethod
    def remove_classifier(self) -> None:
        """Takes away what `features` does not use, so that every parameter gets a gradient from it."""
