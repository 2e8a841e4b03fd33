"""What a network costs, counted on the `meta` device: no weights, no arithmetic."""

from dataclasses import dataclass

import torch
from torch import nn

from backbones.network import NASNet
from backbones.spec import NetworkSpec


@dataclass(frozen=True)
class Profile:
    """Costs of one image.

    parameters: trainable ones, without the auxiliary head. buffers: batch norm's running means and variances
    (the paper's 88.9M counts them, docs/nasnet.md, T18). multiply_adds: of convolutions and the classifier.
    activation_bytes: float32 outputs of all layers in one forward pass, a bound on what training keeps.
    """

    parameters: int
    buffers: int
    multiply_adds: int
    activation_bytes: int


def profile(network: NASNet | NetworkSpec, image_size: int | None = None, num_classes: int = 1000) -> Profile:
    """Counts a network at `image_size` (the spec's own where None). num_classes counts for a spec only."""
    spec = network if isinstance(network, NetworkSpec) else network.spec
    classes = num_classes if isinstance(network, NetworkSpec) else network.num_classes
    size = spec.image_size if image_size is None else image_size
    with torch.device("meta"):
        net = NASNet(spec, classes)
        image = torch.empty(1, spec.in_channels, size, size)
    multiply_adds = activations = 0

    def count(module: nn.Module, _: object, output: torch.Tensor | None) -> None:
        nonlocal multiply_adds, activations
        if output is None:  # a cell that never reads h_{i-1} passes none on
            return
        activations += output.numel() * 4
        if isinstance(module, nn.Conv2d | nn.Linear):
            multiply_adds += output[0].numel() // module.weight.shape[0] * module.weight.numel()

    hooks = [m.register_forward_hook(count) for m in net.modules() if not list(m.children())]
    with torch.no_grad():
        net.eval()(image)
    for hook in hooks:
        hook.remove()
    return Profile(
        parameters=sum(p.numel() for p in net.parameters()),
        buffers=sum(b.numel() for name, b in net.named_buffers() if "num_batches" not in name),
        multiply_adds=multiply_adds,
        activation_bytes=activations,
    )
