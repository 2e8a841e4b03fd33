"""Running statistics of batch normalisation: when a training is too short for them."""

import logging

from torch import nn

log = logging.getLogger(__name__)


def batch_norm_momentum(network: nn.Module) -> float:
    """The smallest weight of the newest batch in running statistics; 1 where there are none."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    return min((norm.momentum for norm in norms if norm.momentum is not None), default=1.0)


def warn_of_slow_statistics(network: nn.Module, batches: int) -> None:
    """Warns where evaluation would use statistics that are still those of a fresh network, 0 and 1.

    batches: forward passes of the whole training."""
    momentum = batch_norm_momentum(network)
    left = (1 - momentum) ** batches
    if left > 0.05:
        log.warning(
            "The backbone's batch_norm_momentum = %g: after %d batches the statistics that evaluation uses "
            "still consist to %.0f %% of their starting values; a short run needs a larger one, such as 0.1",
            *(momentum, batches, 100 * left),
        )
