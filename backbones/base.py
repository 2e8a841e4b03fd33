"""What a detector, and what a classifier's training, asks of a network, whoever built it.

A detector needs a `Backbone`, classification a `Classifier`. The protocols below are optional: whoever needs
one of them asks for it by `isinstance`, so a network has it as soon as it has the methods.
Letters: N images, R regions, C channels, H W pixels, K classes.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

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
    def to_dict(self) -> dict[str, Any]: ...


class Backbone(nn.Module, ABC):
    """A network with maps of several strides: all that a detector needs of one.

    spec: what a weights file says of it; needed where it is stored. preprocessing: travels with the weights.
    feature_info: of what `features` returns, ascending in stride.
    """

    spec: BackboneSpec
    preprocessing: Preprocessing
    feature_info: list[FeatureInfo]

    @abstractmethod
    def features(self, x: Tensor) -> dict[str, Tensor]:
        """The last map of each stride, after its activation: `{"c2": [N, C, H/4, W/4], …}`.

        x: `[N, in_channels, H, W]`, normalised images.
        """


class Classifier(Backbone):
    """A backbone whose `forward` takes the same images to `[N, K]` logits.

    num_classes: K. classes: their names in the order of the logits, where known. drop_path_keep: probability
    that a path of the last block survives at the end of training. fused: made by `fuse`.
    """

    fused = False

    num_classes: int
    classes: list[str] | None
    drop_path_keep: float

    def __init__(self, spec: BackboneSpec, num_classes: int, drop_path_keep: float = 1.0) -> None:
        """Raises ValueError for numbers out of range."""
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes = {num_classes}, must be at least 1")
        if not 0.0 < drop_path_keep <= 1.0:
            raise ValueError(f"drop_path_keep = {drop_path_keep}, must be in (0, 1]")
        self.spec, self.num_classes, self.drop_path_keep = spec, num_classes, drop_path_keep
        self.classes = None

    @property
    def unstorable(self) -> str | None:
        """What keeps its tensors and its spec from giving it again where their shapes do not show it."""
        fused = "a fused network cannot be stored; store the one it was made of, and fuse that"
        return fused if self.fused else None

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def remove_classifier(self) -> None:
        """Takes away what `features` does not use, so that every parameter gets a gradient from it."""


@runtime_checkable
class Fusible(Protocol):
    """A network with a faster form for inference."""

    fused: bool

    def fuse(self) -> Any:
        """A copy for inference, in channels_last, with batch norm folded into the convolutions.

        Raises ValueError for batch norm without running statistics.
        """


class Split(ABC):
    """Two functions over a network's own modules: `tail(trunk(images))` is its last map.

    The paper's detector runs the tail once per region. Made anew for each use: it owns no weights.
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


@runtime_checkable
class Splittable(Protocol):
    """A network that a detector on one map can use."""

    def split(self, stride: int = 16) -> Split:
        """Cuts the network after its last maps of that stride. Raises ValueError where that is impossible."""


def split_at(network: Backbone, stride: int) -> Split:
    """The network in two. Raises ValueError where it cannot be cut there, or not at all."""
    if not isinstance(network, Splittable):
        raise ValueError(
            f"{type(network).__name__} has no method `split` (backbones.base.Splittable), which a detector "
            "on one map needs: add it, or use a detector with a pyramid"
        )
    return network.split(stride)


@runtime_checkable
class ScheduledDropPath(Protocol):
    """A network that drops paths, fewer at the start of training."""

    drop_path_keep: float

    def set_progress(self, progress: float) -> None:
        """progress: optimiser steps done / planned, in [0, 1]."""


@runtime_checkable
class ActivationMemory(Protocol):
    """A network that can keep less for its backward pass."""

    def set_activation_memory(self, mode: str) -> None:
        """mode: one of `backbones.spec.ACTIVATION_MEMORY`."""


@runtime_checkable
class AuxiliaryLogits(Protocol):
    """A network that can have a second classifier for training."""

    def forward_with_aux(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits and, in training where the network has the head, auxiliary logits; else None."""


def training_forward(network: nn.Module) -> Callable[[Tensor], tuple[Tensor, Tensor | None]]:
    """Images to logits and, where the network has them, auxiliary logits."""
    if isinstance(network, AuxiliaryLogits):
        return network.forward_with_aux
    return lambda x: (network(x), None)
