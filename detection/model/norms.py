"""Normalisation layers of a backbone inside a detector."""

import functools
from typing import Any

from torch import nn

from backbones.norm import NarrowBatchNorm2d
from backbones.ranges import KEY, ConfigError


class FrozenStatistics(nn.BatchNorm2d):
    """Batch normalisation with the stored statistics in training, too; scale and shift stay trainable.

    A detector's batches are too small for statistics of their own (docs/nasnet.md, section 7)."""

    def train(self, mode: bool = True) -> "FrozenStatistics":
        """Stays in evaluation mode."""
        return super().train(False)


def use_group_norm(network: nn.Module) -> None:
    """Puts group normalisation, which needs no statistics, in place of batch normalisation; fresh weights.

    At most 32 groups of at least 4 channels (1803.08494, which found the number to matter little).
    Raises ValueError for norms that do more than normalise."""
    for module in list(network.modules()):
        for name, norm in module.named_children():
            if not isinstance(norm, nn.BatchNorm2d):
                continue
            if type(norm) not in (nn.BatchNorm2d, NarrowBatchNorm2d):
                raise ConfigError(
                    f"{KEY}recipe.norm = group would lose what {type(norm).__name__} does besides "
                    "normalising; take another norm for this network"
                )
            channels = norm.num_features
            groups = max(g for g in range(1, 33) if channels % g == 0 and (g == 1 or channels // g >= 4))
            setattr(module, name, nn.GroupNorm(groups, channels, eps=norm.eps))


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
