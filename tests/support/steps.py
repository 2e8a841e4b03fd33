"""What a network answers and learns, to hold its forms and devices against each other."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.network import NASNet

EXACT = 1e-9
"""Tolerance between two orders of summation in float64."""


def trained_step(
    net: nn.Module, images: Tensor, forward: Callable[[Tensor], Any] | None = None, frozen: bool = False
) -> dict[str, Tensor]:
    """Outputs, gradients and buffers of one training step, by name, on the CPU.

    forward: of the network, where it is not its call. frozen: batch norm in evaluation mode. Parameters that
    require no gradient have none; every other one must get its own, and most of them must not be 0.
    """
    net.train()
    for module in net.modules() if frozen else ():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    torch.manual_seed(0)
    outputs = (net if forward is None else forward)(images)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    weights = [torch.linspace(-1, 1, output.numel()).to(output).view_as(output) for output in outputs]
    sum((output * weight).sum() for output, weight in zip(outputs, weights, strict=True)).backward()
    gradients = {f"gradient of {name}": p.grad for name, p in net.named_parameters() if p.requires_grad}
    assert not [name for name, gradient in gradients.items() if gradient is None]
    zero = [name for name, gradient in gradients.items() if not gradient.any()]
    assert len(zero) < len(gradients) / 2, zero
    found = {f"output {i}": output.detach() for i, output in enumerate(outputs)}
    found |= {**gradients, **dict(net.named_buffers())}
    return {name: value.cpu().clone() for name, value in found.items()}


@torch.no_grad()
def answers(net: NASNet, images: Tensor) -> dict[str, Tensor]:
    """Logits, features and end points in evaluation mode, by name, on the CPU."""
    net.eval()
    found = {"logits": net(images)}
    found |= {f"feature {name}": value for name, value in net.features(images).items()}
    found |= {f"end point {name}": value for name, value in net.endpoints(images).items()}
    return {name: value.cpu() for name, value in found.items()}


def assert_same(
    actual: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: float = EXACT
) -> None:
    """Of every tensor, the largest difference is at most `tolerance` of its largest value.

    In exact arithmetic some gradients are 0, such as that of a shift that the next norm takes away; of them
    rounding alone is left. Hence no gradient counts for less than a thousandth of the largest.
    """
    assert list(actual) == list(expected)
    sizes = {name: value.double().abs().max().item() for name, value in expected.items()}
    least = 1e-3 * max((size for name, size in sizes.items() if name.startswith("gradient")), default=0.0)
    for name, value in expected.items():
        assert actual[name].shape == value.shape, name
        difference = (actual[name].double() - value.double()).abs().max().item()
        allowed = tolerance * max(sizes[name], least * name.startswith("gradient"))
        assert difference <= allowed, f"{name} differs by {difference:.1e}, allowed are {allowed:.1e}"


def mean_cosine(actual: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """Over the gradients of two steps: 1 where they point the same way."""
    cosines = [
        F.cosine_similarity(actual[name].double().flatten(), value.double().flatten(), dim=0).item()
        for name, value in expected.items()
        if name.startswith("gradient")
    ]
    return sum(cosines) / len(cosines)
