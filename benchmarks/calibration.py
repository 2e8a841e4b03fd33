"""Networks whose outputs depend on their input, which those of a fresh network hardly do."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

Net = TypeVar("Net", bound=nn.Module)


def calibrate(
    net: Net,
    seed: int = 0,
    images: int = 4,
    size: int = 64,
    forward: Callable[[Tensor], object] | None = None,
) -> Net:
    """Draws batch norm's scales and shifts, and sets its running statistics to those of random images.

    size: their side in pixels. forward: what runs the norms, where it is not the network's call.
    """
    generator = torch.Generator().manual_seed(seed)
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    first = next(parameter for parameter in net.parameters() if parameter.ndim == 4)
    momenta = [norm.momentum for norm in norms]
    mode = net.training
    with torch.no_grad():
        for norm in norms:
            norm.weight.copy_(torch.rand(norm.num_features, generator=generator) + 0.5)
            norm.bias.copy_(0.2 * torch.randn(norm.num_features, generator=generator))
            norm.momentum = 1.0
        net.train()
        pixels = torch.randn(images, first.shape[1], size, size, generator=generator).to(first)
        (net if forward is None else forward)(pixels)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return net.train(mode)
