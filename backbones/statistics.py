"""Running statistics of batch normalisation: when a training is too short for them."""

import logging

log = logging.getLogger(__name__)


def warn_of_slow_statistics(momentum: float, batches: int) -> None:
    """Warns where evaluation would use statistics that are still those of a fresh network, 0 and 1.

    momentum: `NetworkSpec.batch_norm_momentum`. batches: forward passes of the whole training."""
    left = (1 - momentum) ** batches
    if left > 0.05:
        log.warning(
            "backbone.batch_norm_momentum = %g: after %d batches the statistics that evaluation uses still "
            "consist to %.0f %% of their starting values; a short run needs a larger one, such as 0.1",
            *(momentum, batches, 100 * left),
        )
