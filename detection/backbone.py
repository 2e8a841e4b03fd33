"""The backbone that a detector is built on: where it comes from, and how it behaves inside a detector."""

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

from torch import nn

from backbones import weights
from backbones.base import Backbone
from backbones.build import build
from backbones.norm import NarrowBatchNorm2d
from backbones.spec import NetworkSpec
from backbones.zoo import BackboneConfig


@dataclass(kw_only=True)
class BackboneSource:
    """Either `weights` or `name`; the other keys belong to `name`. None: what the name says."""

    weights: str | None = None
    """A backbone.safetensors, which brings its architecture and its preprocessing."""
    from_scratch: bool = False
    """Take the architecture of `weights` and leave its weights: the control of a transfer experiment."""
    name: str | None = None
    """A zoo name or a genotype.json, with fresh weights."""
    cells_per_stage: int | None = None
    """Normal cells in each of the three stages."""
    filters: int | None = None
    """Channels of one hidden state in the first stage."""
    stem_filters: int | None = None
    """Channels of the stem's convolution."""
    batch_norm_momentum: float | None = None
    """Weight of the newest batch in the running statistics; goes with `from_scratch`, too, where the momentum
    of a long training on ImageNet would leave the statistics almost at their start."""
    freeze_at: int = 0
    """Loaded weights that are not trained: all that the maps up to this one are computed from, with their
    statistics; 2 is c2, stride 4, Detectron2's FREEZE_AT = 2 of a ResNet, 5 the whole network. 0: none."""

    def __post_init__(self) -> None:
        if (self.weights is None) == (self.name is None):
            raise ValueError(
                f"backbone.weights = {self.weights} and backbone.name = {self.name}: give one, "
                "a backbone.safetensors or a network's name"
            )
        given = [key for key, value in self._size().items() if value is not None]
        if self.from_scratch:
            given = [key for key in given if key != "batch_norm_momentum"]
        if self.weights is not None and given:
            raise ValueError(f"backbone.{given[0]} belongs to backbone.name; {self.weights} has its own")
        if self.weights is None and self.from_scratch:
            raise ValueError("backbone.from_scratch needs backbone.weights; a name is always from scratch")
        if not 0 <= self.freeze_at <= 5:
            raise ValueError(f"backbone.freeze_at = {self.freeze_at}, must be in 0..5")
        if self.freeze_at and not self.pretrained:
            raise ValueError(
                f"backbone.freeze_at = {self.freeze_at} needs loaded weights; fresh ones would stay as drawn"
            )

    @property
    def label(self) -> str:
        """What a message calls the network."""
        return str(self.weights or self.name)

    @property
    def pretrained(self) -> bool:
        """Whether `build` gives trained weights."""
        return self.weights is not None and not self.from_scratch

    def _size(self) -> dict[str, int | float | None]:
        keys = ("cells_per_stage", "filters", "stem_filters", "batch_norm_momentum")
        return {key: getattr(self, key) for key in keys}

    def build(self) -> Backbone:
        """The network without its classifier. Raises ValueError for the cifar stem."""
        if self.weights is not None:
            network = weights.load(self.weights)
            if self.from_scratch:
                preprocessing = network.preprocessing
                spec: Any = network.spec
                if self.batch_norm_momentum is not None:
                    spec = dataclasses.replace(spec, batch_norm_momentum=self.batch_norm_momentum)
                network = build(spec, num_classes=1)
                network.preprocessing = preprocessing
        else:
            size = {key: value for key, value in self._size().items() if value is not None}
            network = BackboneConfig(name=str(self.name), **size).build(num_classes=1)  # type: ignore[arg-type]
        if isinstance(network.spec, NetworkSpec) and network.spec.stem == "cifar":
            raise ValueError(
                f"{self.label} has the cifar stem, whose maps are too large for detection "
                "(strides 1, 2, 4): train the classifier with the imagenet stem"
            )
        network.remove_classifier()
        return network


class FrozenStatistics(nn.BatchNorm2d):
    """Batch normalisation with the stored statistics in training, too; scale and shift stay trainable.

    A detector's batches are too small for statistics of their own (docs/nasnet.md, section 7)."""

    def train(self, mode: bool = True) -> "FrozenStatistics":
        """Stays in evaluation mode."""
        return super().train(False)


def use_group_norm(network: nn.Module) -> nn.Module:
    """Puts group normalisation, which needs no statistics, in place of batch normalisation; fresh weights.

    At most 32 groups of at least 4 channels (1803.08494, which found the number to matter little).
    Raises ValueError for norms that do more than normalise."""
    for module in list(network.modules()):
        for name, norm in module.named_children():
            if not isinstance(norm, nn.BatchNorm2d):
                continue
            if type(norm) not in (nn.BatchNorm2d, NarrowBatchNorm2d):
                raise ValueError(
                    f"recipe.norm = group would lose what {type(norm).__name__} does besides normalising; "
                    "take another norm for this network"
                )
            channels = norm.num_features
            groups = max(g for g in range(1, 33) if channels % g == 0 and (g == 1 or channels // g >= 4))
            setattr(module, name, nn.GroupNorm(groups, channels, eps=norm.eps))
    return network


@functools.cache
def _frozen(kind: Any) -> type[nn.BatchNorm2d]:
    """`kind`, which may do more than normalise (timm's has an activation in it), with frozen statistics."""
    return type(f"Frozen{kind.__name__}", (FrozenStatistics, kind), {})


def freeze_statistics(module: nn.Module) -> nn.Module:
    """Makes every BatchNorm2d below `module` a FrozenStatistics, in place."""
    for child in module.modules():
        if isinstance(child, nn.BatchNorm2d) and not isinstance(child, FrozenStatistics):
            child.__class__ = _frozen(type(child))  # type: ignore[arg-type]
            child.train()
    return module
