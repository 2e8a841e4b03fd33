"""Running statistics of batch normalisation: whether training is too short for them."""

import logging
import math

from torch import nn

log = logging.getLogger(__name__)

LEFT = 0.05
"""Largest share of the initial values that is passed over in silence."""


def batch_norm_momentum(network: nn.Module) -> float:
    """The smallest weight of the newest batch in running statistics; 1 where there are none."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    return min((norm.momentum for norm in norms if norm.momentum is not None), default=1.0)


def warn_of_slow_statistics(network: nn.Module, batches: int) -> None:
    """Warns where evaluation would use statistics that are still those of a fresh network, 0 and 1.

    batches: forward passes of the whole run, at least 1."""
    momentum = batch_norm_momentum(network)
    left = (1 - momentum) ** batches
    if left > LEFT:
        enough = math.ceil(100 * (1 - LEFT ** (1 / batches))) / 100
        log.warning(
            "backbone.batch_norm_momentum = %g: after %s the statistics that evaluation uses are "
            "still %.0f %% initial values; train longer, or set backbone.batch_norm_momentum=%g",
            *(momentum, "1 batch" if batches == 1 else f"{batches} batches", 100 * left, enough),
        )
