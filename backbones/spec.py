"""Everything that defines a network but its weights: the genotype and how cells are scaled and stacked."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from backbones.files import convert_json
from backbones.genotype import Genotype
from backbones.ranges import KEY, ConfigError, require
from backbones.words import clipped

STEMS = ("imagenet", "cifar")
PADDINGS = ("same", "symmetric")
MOST_CELLS, MOST_CHANNELS, LARGEST_IMAGE = 1000, 1_000_000, 4096
"""Cells of a stage, channels or classes, pixels of a side: more are a mistake, or a file's false claim."""
ACTIVATION_MEMORY = ("keep", "lean", "checkpoint")
"""What a network keeps for the backward pass: `NASNet.set_activation_memory`."""
HEAD_INITS = ("fan_in", "fan_out")
"""How wide classifiers start: by their inputs, or as TF-slim's by their classes."""
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")

_LARGEST = {"cells_per_stage": 100, "filters": 4096, "stem_filters": 4096, "image_size": LARGEST_IMAGE}


def check_sizes(config: Any) -> None:
    """Raises ConfigError for a size of a network that no machine builds.

    config: a dataclass with some of NetworkSpec's keys."""
    for key, most in _LARGEST.items():
        if hasattr(config, key):
            require(config, key, least=1, limit=most)


def check_imagenet_stem(config: Any) -> None:
    """Raises ConfigError for `filters` that the imagenet stem cannot halve twice. config: has that key."""
    if config.filters % 4 or config.filters < 8:
        raise ConfigError(
            f"{KEY}filters = {config.filters}, but the imagenet stem halves them twice: "
            "use a multiple of 4 from 8 on"
        )


@dataclass(frozen=True)
class NetworkSpec:
    """A network up to its weights and classes.

    cells_per_stage: normal cells in each of the three stages (the paper's N), at least 1.
    filters: channels of one hidden state in the first stage; with the imagenet stem 8, 12, 16, … (The
        paper's F is the width before the classifier, `len(normal.concat) * 4 * filters`.)
    stem: `imagenet`, a strided convolution and two reduction cells (strides 2, 4, 8), or `cifar`, one
        convolution at stride 1.
    stem_filters: channels of the stem's convolution.
    image_size: side in pixels that the network is meant for; it runs at others, the auxiliary head does not.
    padding: see `layers.Layers`.
    skip_reduction_input: the first normal cell after a reduction reads as h_{i-1} what the reduction read as
        h_{i-1}, not the cell before the reduction (docs/nasnet.md, section 4.3 and T7).
    batch_norm_eps, batch_norm_momentum: in PyTorch's sense.
    strided_average_counts_padding: see `layers.Layers`; for weights of timm, which were run that way.

    Raises ValueError that names the field.
    """

    genotype: Genotype
    cells_per_stage: int
    filters: int
    stem: str = "imagenet"
    stem_filters: int = 32
    image_size: int = 224
    in_channels: int = 3
    padding: str = "same"
    skip_reduction_input: bool = False
    batch_norm_eps: float = 1e-3
    batch_norm_momentum: float = 0.1
    strided_average_counts_padding: bool = False

    def __post_init__(self) -> None:
        require(self, "stem", among=STEMS)
        require(self, "padding", among=PADDINGS)
        for field in ("cells_per_stage", "filters", "stem_filters", "in_channels", "image_size"):
            value = getattr(self, field)
            if not isinstance(value, int) or value < 1:
                raise ConfigError(f"{KEY}{field} = {clipped(value)}, must be a whole number from 1 on")
        require(self, "cells_per_stage", least=1, most=MOST_CELLS)
        require(self, "filters", "stem_filters", "in_channels", least=1, most=MOST_CHANNELS)
        require(self, "image_size", least=1, most=LARGEST_IMAGE)
        if self.stem == "imagenet":
            check_imagenet_stem(self)
        if self.image_size < self.smallest_image:
            raise ConfigError(
                f"{KEY}image_size = {self.image_size}, the {self.stem} stem needs at least "
                f"{self.smallest_image}"
            )
        for flag in ("skip_reduction_input", "strided_average_counts_padding"):
            if not isinstance(getattr(self, flag), bool):
                raise ConfigError(f"{KEY}{flag} = {getattr(self, flag)!r}, expected true or false")
        require(self, "batch_norm_eps", above=0, most=1)
        require(self, "batch_norm_momentum", above=0, most=1)

    @property
    def smallest_image(self) -> int:
        """Pixels; below it the unpadded first convolution of the imagenet stem has nothing to see."""
        return 3 if self.stem == "imagenet" else 1

    @property
    def stem_stride(self) -> int:
        """Pixels of the image per step of the stem convolution's map."""
        return 2 if self.stem == "imagenet" else 1

    def stem_side(self, size: int) -> int:
        """Side of that map for an image of `size` pixels; the imagenet stem's convolution has no padding."""
        return (size - 1) // 2 if self.stem == "imagenet" else size

    @property
    def default_classes(self) -> int:
        """Of a network whose number of classes nobody gives: those of ImageNet, or of CIFAR-10."""
        return 1000 if self.stem == "imagenet" else 10

    def to_dict(self) -> dict[str, Any]:
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return fields | {"genotype": self.genotype.to_dict()}

    @classmethod
    def from_dict(cls, value: Any, where: str = "network") -> "NetworkSpec":
        """Reads `to_dict`'s form. where: file and key for the message. Raises ValueError."""
        fields = convert_json(value, dict[str, Any], f"{where}.")
        if "genotype" in fields:
            fields["genotype"] = Genotype.from_dict(fields["genotype"], where=f"{where}.genotype")
        return convert_json(fields, cls, f"{where}.")


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the network's input; it travels with the weights.

    size: side of the square input in pixels. mean, std: per channel, of values in 0..1. crop: share of the
    short side that the central crop keeps in evaluation. interpolation: a PIL filter's name.
    """

    size: int
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    crop: float = 0.875
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        require(self, "size", least=1, most=LARGEST_IMAGE)
        require(self, "crop", above=0, most=1)
        require(self, "interpolation", among=INTERPOLATIONS)
        if not all(map(math.isfinite, self.mean)):
            raise ConfigError(f"{KEY}mean = {clipped(self.mean)}, expected finite numbers")
        if len(self.mean) != len(self.std) or not all(0 < value < math.inf for value in self.std):
            raise ConfigError(
                f"{KEY}std = {clipped(self.std)}, expected {len(self.mean)} finite values above 0"
            )
