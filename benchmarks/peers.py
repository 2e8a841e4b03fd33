"""The public networks, ours with their weights, and the check that both do the same."""

import copy
import sys
import warnings
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.foreign_weights import their_names
from backbones.network import NASNet
from backbones.weights import convert
from benchmarks.calibration import calibrate

SOURCES: Mapping[str, tuple[str, int]] = {"mobile": ("pretrainedmodels", 224), "large": ("timm", 331)}
"""Package and side of the images in pixels."""

IN_FLOAT32, IN_FLOAT64 = 1e-4, 1e-8
"""Tolerances, of the largest value."""


def public(name: str) -> nn.Module:
    """`nasnetamobile` of pretrainedmodels, or `nasnetalarge` of timm, with random weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name == "mobile":
            import pretrainedmodels

            return pretrainedmodels.nasnetamobile(1000, None)
        import timm

        return timm.create_model("nasnetalarge", num_classes=1000)


def pair(name: str) -> tuple[nn.Module, NASNet, int]:
    """The public network with statistics of random images, ours with its weights, the side in pixels."""
    source, size = SOURCES[name]
    peer = calibrate(public(name).eval(), images=2, size=size)
    return peer, convert(peer.state_dict(), source).to(memory_format=torch.channels_last), size


def training_step(
    net: nn.Module, images: Tensor, labels: Tensor, autocast: bool = False
) -> Callable[[], None]:
    """A step of SGD with momentum: loss, backward pass, update. autocast: to bfloat16."""
    optimizer = torch.optim.SGD(net.train().parameters(), 1e-3, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(images.device.type, torch.bfloat16, enabled=autocast):
            loss = F.cross_entropy(net(images), labels)
        loss.backward()
        optimizer.step()

    return step


def check_equal(
    work: str,
    way: str,
    actual: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    tolerance: float = IN_FLOAT32,
) -> None:
    """Ends the program where a tensor differs by more than `tolerance` of its largest value.

    No tensor counts for less than a thousandth of the largest one: of gradients that are 0 in exact
    arithmetic, such as those of a shift before the next norm, rounding alone is left.
    """
    least = 1e-3 * max(value.abs().max().item() for value in expected.values())
    for name, value in expected.items():
        difference = (actual[name] - value).abs().max().item() / max(value.abs().max().item(), least)
        if not difference <= tolerance:  # also where it is not a number
            sys.exit(
                f"{work}, {way}: {name} differs from the peer's by {difference:.1e} of its largest value"
            )


def gradients(net: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Loss and gradients of a training step in float64, by the names that the peers give to parameters."""
    net = copy.deepcopy(net).double().train()
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    loss = F.cross_entropy(net(images.double()), labels)
    loss.backward()
    names = their_names(net) if isinstance(net, NASNet) else {}
    found = {"loss": loss.detach()}
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        found[f"gradient of {names.get(name, name)}"] = parameter.grad
    return found
