"""What makes training faster or leaner changes no number: forward, gradients, batch norm's statistics."""

import copy

import pytest
import torch
import torch.nn.functional as F
from calibration import calibrate
from genotypes import small_specs
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from backbones import create
from backbones.layers import PRODUCT_UP_TO_PIXELS, PointwiseConv2d
from backbones.network import ACTIVATION_MEMORY, NASNet
from backbones.norm import NarrowBatchNorm2d
from backbones.zoo import resolve_spec

CHANNELS_LAST = torch.channels_last


def trained_step(net: nn.Module, images: torch.Tensor, frozen: bool = False) -> dict[str, torch.Tensor]:
    """Output, gradients and buffers of one training step, by name. frozen: batch norm in evaluation mode."""
    net.train()
    for module in net.modules() if frozen else ():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    torch.manual_seed(0)
    output = net(images)
    (output * torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)).sum().backward()
    gradients = {f"gradient of {name}": p.grad for name, p in net.named_parameters()}
    assert not [name for name, gradient in gradients.items() if gradient is None]
    return {"output": output.detach(), **gradients, **dict(net.named_buffers())}


def assert_same_step(a: nn.Module, b: nn.Module, images: torch.Tensor, frozen: bool = False) -> None:
    expected, actual = (trained_step(net, images, frozen) for net in (a, b))
    assert list(actual) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, msg=lambda m, name=name: f"{name}: {m}")


def in_mode(net: NASNet, mode: str) -> NASNet:
    net = copy.deepcopy(net)
    net.set_activation_memory(mode)
    return net


@settings(max_examples=20, deadline=None)
@given(
    spec=small_specs(st.sampled_from([32, 33]), max_cells_per_stage=1),
    mode=st.sampled_from(["lean", "checkpoint"]),
    layout=st.sampled_from([torch.contiguous_format, CHANNELS_LAST]),
)
def test_a_step_is_the_same_in_every_activation_memory(spec, mode, layout):
    net = calibrate(NASNet(spec, 3).double(), size=spec.image_size).to(memory_format=layout)
    images = torch.randn(3, 3, spec.image_size, spec.image_size, dtype=torch.float64)
    assert_same_step(net, in_mode(net, mode), images.contiguous(memory_format=layout))


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("mode", ["lean", "checkpoint"])
def test_drop_path_and_frozen_norms_keep_to_it(mode, frozen):
    net = NASNet(resolve_spec("nasnet_a_cifar", cells_per_stage=1, filters=8), 3, drop_path_keep=0.5)
    net = calibrate(net.double(), size=32)
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    assert_same_step(net, in_mode(net, mode), images, frozen)


def saved_bytes(net: nn.Module, images: torch.Tensor) -> int:
    kept = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = net.train()(images)
    del output
    return sum(kept.values())


def test_lean_and_checkpoint_keep_less():
    net = create("nasnet_a_mobile", 10, cells_per_stage=2, filters=16).to(memory_format=CHANNELS_LAST)
    images = torch.randn(2, 3, 224, 224).contiguous(memory_format=CHANNELS_LAST)
    keep, lean, checkpoint = (saved_bytes(in_mode(net, mode), images) for mode in ACTIVATION_MEMORY)
    assert lean < 0.7 * keep
    assert checkpoint < 0.3 * keep


def test_an_unknown_activation_memory_names_the_known():
    with pytest.raises(ValueError, match="'little', expected one of keep, lean, checkpoint"):
        create("nasnet_a_cifar", cells_per_stage=1, filters=8).set_activation_memory("little")


def test_lean_refuses_norms_it_cannot_recompute():
    net = nn.SyncBatchNorm.convert_sync_batchnorm(create("nasnet_a_cifar", cells_per_stage=1, filters=8))
    net.set_activation_memory("lean")
    with pytest.raises(ValueError, match="SyncBatchNorm: use 'checkpoint'"):
        net.train()(torch.randn(2, 3, 32, 32))


@pytest.mark.parametrize("mode", ACTIVATION_MEMORY)
def test_a_step_in_bfloat16_stays_near_the_exact_one(mode):
    net = calibrate(create("nasnet_a_cifar", 3, cells_per_stage=1, filters=8), size=32)
    images = torch.randn(4, 3, 32, 32).contiguous(memory_format=CHANNELS_LAST)
    exact = trained_step(copy.deepcopy(net), images)["gradient of classifier.weight"]
    with torch.autocast("cpu", torch.bfloat16):
        rounded = trained_step(in_mode(net, mode), images)["gradient of classifier.weight"]
    assert F.cosine_similarity(exact.flatten(), rounded.flatten(), dim=0) > 0.99


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (4, 11, 14, 14), (1, 15, 6, 7), (3, 11, 5, 5), (2, 1, 4, 4)])
def test_narrow_batch_norm_is_batch_norm(shape):
    channels = shape[1]
    narrow = NarrowBatchNorm2d(channels, 1e-3, 0.2).double()
    nn.init.normal_(narrow.weight)
    nn.init.normal_(narrow.bias)
    plain = nn.BatchNorm2d(channels, 1e-3, 0.2).double()
    plain.load_state_dict(narrow.state_dict())
    images = (3 + 2 * torch.randn(shape, dtype=torch.float64)).contiguous(memory_format=CHANNELS_LAST)
    inputs = [images.clone().requires_grad_() for _ in range(2)]
    for x, norm in zip(inputs, (plain, narrow), strict=True):
        x.retain_grad()
        norm(x * 1.0).sin().sum().backward()
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad)
    for a, b in zip(narrow.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    for name, value in plain.named_buffers():
        torch.testing.assert_close(narrow.get_buffer(name), value)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("side", [8, 64])
def test_a_pointwise_convolution_is_one_as_product_and_as_convolution(side, stride):
    assert (2 * (side // stride) ** 2 <= PRODUCT_UP_TO_PIXELS) == ((side, stride) != (64, 1))
    layer = PointwiseConv2d(5, 7, 1, stride, bias=False).double()
    plain = nn.Conv2d(5, 7, 1, stride, bias=False).double()
    plain.load_state_dict(layer.state_dict())
    images = torch.randn(2, 5, side, side, dtype=torch.float64)
    assert_same_step(plain, layer, images.contiguous(memory_format=CHANNELS_LAST))
