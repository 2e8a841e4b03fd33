"""Batch norm folded into the convolutions before it, in any network that torch.fx can read.

Our own networks have a faster form of their own (`backbones.fused`).
"""

import logging
from collections import Counter
from typing import Any

from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

log = logging.getLogger(__name__)


class _LayerTracer(fx.Tracer):
    """Looks into everything but convolutions and batch norms, whatever packages they are from."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, nn.Conv2d | nn.BatchNorm2d) or super().is_leaf_module(m, module_qualified_name)


def fold_batch_norms(net: nn.Module) -> int:
    """Folds, in place, each batch norm that alone reads a convolution; what else it does stays.

    net: in evaluation mode. Returns how many there were. A network whose Python torch.fx cannot follow is
    left as it is, and logged.
    Raises ValueError for batch norm without running statistics.
    """
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    if any(norm.running_mean is None for norm in norms):
        raise ValueError("batch norm without running statistics cannot be folded")
    if not norms:
        return 0
    try:
        graph = _LayerTracer().trace(net)
    except Exception as error:  # whatever the network's own code makes of a symbol instead of a tensor
        log.info("Batch norm is not folded: torch.fx cannot follow %s (%s)", type(net).__name__, error)
        return 0
    uses = Counter(node.target for node in graph.nodes if node.op == "call_module")
    count = 0
    for node in graph.nodes:
        if node.op != "call_module" or uses[node.target] > 1:
            continue
        norm: Any = net.get_submodule(str(node.target))
        before = node.args[0] if node.args else None
        if not isinstance(norm, nn.BatchNorm2d) or not isinstance(before, fx.Node):
            continue
        if before.op != "call_module" or uses[before.target] > 1 or len(before.users) > 1:
            continue
        convolution = net.get_submodule(str(before.target))
        if isinstance(convolution, nn.Conv2d):
            net.set_submodule(str(before.target), fuse_conv_bn_eval(convolution, norm))
            rest = [getattr(norm, name) for name in ("drop", "act") if hasattr(norm, name)]  # of timm's own
            net.set_submodule(str(node.target), nn.Sequential(*rest))
            count += 1
    return count
