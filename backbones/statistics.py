"""Statistics of batch normalisation: whether training is too short, or its batches too small for them."""

import logging
import math

from torch import nn

from backbones.base import Backbone
from backbones.spec import NetworkSpec
from backbones.words import counted

log = logging.getLogger(__name__)

LEFT = 0.05
"""Largest share of the initial values that is passed over in silence."""
FEWEST_VALUES = 4
"""Per channel and batch. Of two, batch norm makes +1 and -1, whatever they were, and no gradient passes."""


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
            *(momentum, counted(batches, "batch", "batches"), 100 * left, enough),
        )


def warn_of_few_values(
    network: Backbone, images: int, height: int, width: int, stride: int | None = None
) -> None:
    """Warns where a channel of the network has fewer than FEWEST_VALUES values in a batch.

    images: that share statistics. height, width: of the smallest of them, pixels. stride: of the last map
    that is computed of whole images; None: the network's last."""
    if not any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        return
    rows, columns = smallest_map(network, height, width, stride)
    if getattr(network, "auxiliary", None) is not None:
        rows = columns = 1  # the auxiliary head's second convolution covers its map
    if (values := images * rows * columns) < FEWEST_VALUES:
        log.warning(
            "Batch normalisation sees %s per channel (%s, a map of %dx%d): it hides what they were, and what "
            "comes before it hardly learns; take at least %d images per pass, or larger ones",
            counted(values, "value"),
            counted(images, "image"),
            *(rows, columns),
            math.ceil(FEWEST_VALUES / (rows * columns)),
        )


def smallest_map(network: Backbone, height: int, width: int, stride: int | None = None) -> tuple[int, int]:
    """Height and width of the map at `stride`, None: the last, of an image of `height` x `width` pixels."""
    stride, spec = stride or max(info.stride for info in network.feature_info), network.spec
    if isinstance(spec, NetworkSpec):  # its stem does not round up
        height, width, stride = spec.stem_side(height), spec.stem_side(width), stride // spec.stem_stride
    return math.ceil(height / stride), math.ceil(width / stride)
