"""Networks whose outputs depend on their input, which those of a fresh network hardly do."""

import torch
from torch import nn

from backbones.network import NASNet


def calibrate(net: NASNet, seed: int = 0, images: int = 4, size: int = 64) -> NASNet:
    """Draws batch norm's scales and shifts, and sets its running statistics to those of random images."""
    generator = torch.Generator().manual_seed(seed)
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    parameter = next(net.parameters())
    momenta = [norm.momentum for norm in norms]
    mode = net.training
    with torch.no_grad():
        for norm in norms:
            norm.weight.copy_(torch.rand(norm.num_features, generator=generator) + 0.5)
            norm.bias.copy_(0.2 * torch.randn(norm.num_features, generator=generator))
            norm.momentum = 1.0
        net.train()
        net(torch.randn(images, net.spec.in_channels, size, size, generator=generator).to(parameter))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return net.train(mode)
