"""What makes training faster or leaner changes no number: forward, gradients, batch norm's statistics."""

import copy

import pytest
import torch
from genotypes import small_specs
from hypothesis import given, settings
from hypothesis import strategies as st
from steps import assert_same, mean_cosine, trained_step
from torch import nn

from backbones import create
from backbones.layers import PRODUCT_UP_TO_PIXELS, Layers, PointwiseConv2d
from backbones.network import NASNet
from backbones.norm import NARROW, NarrowBatchNorm2d
from backbones.operations import OPERATIONS
from backbones.spec import ACTIVATION_MEMORY
from backbones.zoo import resolve_spec
from benchmarks.calibration import calibrate
from benchmarks.memory import saved_bytes

CHANNELS_LAST = torch.channels_last
LEANER = ("lean", "checkpoint")


def draw(images: int, size: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(images, 3, size, size, dtype=dtype).contiguous(memory_format=CHANNELS_LAST)


def small_net(**options) -> NASNet:
    spec = resolve_spec("nasnet_a_cifar", cells_per_stage=1, filters=8)
    return calibrate(NASNet(spec, 3, **options).double(), size=32)


def in_mode(net: NASNet, mode: str) -> NASNet:
    net = copy.deepcopy(net)
    net.set_activation_memory(mode)
    return net


@settings(max_examples=10, deadline=None)
@given(
    spec=small_specs(st.sampled_from([32, 33]), max_cells_per_stage=1),
    mode=st.sampled_from(LEANER),
    layout=st.sampled_from([torch.contiguous_format, CHANNELS_LAST]),
)
def test_a_step_is_the_same_in_every_activation_memory(spec, mode, layout):
    net = calibrate(NASNet(spec, 3).double(), size=spec.image_size).to(memory_format=layout)
    images = draw(3, spec.image_size).contiguous(memory_format=layout)
    assert_same(trained_step(in_mode(net, mode), images), trained_step(net, images))


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("mode", LEANER)
def test_drop_path_and_frozen_norms_keep_to_it(mode, frozen):
    net, images = small_net(drop_path_keep=0.5), draw(4, 32)
    leaner = in_mode(net, mode)
    assert_same(trained_step(leaner, images, frozen=frozen), trained_step(net, images, frozen=frozen))


@pytest.mark.parametrize("mode", LEANER)
def test_the_auxiliary_head_keeps_to_it(mode):
    net, images = small_net(auxiliary=True), draw(3, 32)
    leaner = in_mode(net, mode)
    expected = trained_step(net, images, net.forward_with_aux)
    assert "gradient of auxiliary.classifier.weight" in expected
    assert_same(trained_step(leaner, images, leaner.forward_with_aux), expected)


@pytest.mark.parametrize("mode", LEANER)
def test_parameters_that_are_held_fixed_keep_to_it(mode):
    net, images = small_net(), draw(3, 32)
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(not name.startswith(("stem", "cells.cell_0")) and "left" not in name)
    leaner = in_mode(net, mode)
    expected = trained_step(net, images)
    assert 0 < sum(name.startswith("gradient") for name in expected) < len(list(net.parameters()))
    assert_same(trained_step(leaner, images), expected)


@pytest.mark.parametrize("mode", LEANER)
def test_the_next_step_and_the_evaluation_after_it_keep_to_it(mode):
    net, images = small_net(), draw(3, 32)
    leaner = in_mode(net, mode)
    for each in (net, leaner):
        trained_step(each, images + 1)
    assert_same(trained_step(leaner, images), trained_step(net, images))
    torch.testing.assert_close(leaner.eval()(images), net.eval()(images))


def test_lean_and_checkpoint_keep_less_and_keep_is_the_way_back():
    net = create("nasnet_a_mobile", 10, cells_per_stage=2, filters=16).to(memory_format=CHANNELS_LAST)
    images = draw(2, 224, torch.float32)
    keep, lean, checkpoint = (saved_bytes(in_mode(net, mode), images) for mode in ACTIVATION_MEMORY)
    assert lean < 0.7 * keep
    with torch.no_grad():
        maps = {name: output.nbytes for name, output in net.endpoints(images).items()}
    # Every cell's output once; of the stem the convolution's output, the normalised map and its ReLU.
    assert checkpoint == pytest.approx(sum(maps.values()) + 2 * maps["stem"], rel=1e-3)
    assert saved_bytes(in_mode(in_mode(net, "checkpoint"), "keep"), images) == keep
    assert saved_bytes(in_mode(in_mode(net, "lean"), "keep"), images) == keep


def saved_maps(run, *inputs) -> list[tuple[bool, tuple[int, ...]]]:
    """Of every map that is kept for the backward pass, whether it is one of the inputs, and its shape."""
    kept = {}

    def pack(tensor):
        if tensor.ndim == 4 and not isinstance(tensor, nn.Parameter):
            kept[tensor.data_ptr()] = (any(tensor is x for x in inputs), tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run(*inputs)
    return sorted(kept.values())


def test_a_lean_separable_convolution_keeps_three_maps_instead_of_six():
    layers = (
        OPERATIONS["sep_conv_3x3"].build(Layers("same", 1e-3, 0.1), 8, 16, 2).to(memory_format=CHANNELS_LAST)
    )
    images = torch.randn(2, 8, 65, 65).contiguous(memory_format=CHANNELS_LAST).requires_grad_()
    assert PRODUCT_UP_TO_PIXELS < 2 * 33 * 33  # matrix products keep matrices
    given, narrow, wide = (True, (2, 8, 65, 65)), (False, (2, 8, 33, 33)), (False, (2, 16, 33, 33))
    assert saved_maps(layers, images) == [narrow, *[wide] * 4, given]
    layers.lean = True
    assert saved_maps(layers, images) == [wide, wide, given]


def test_a_checkpointed_cell_keeps_its_inputs_alone():
    net = in_mode(small_net(), "checkpoint").train()
    name = "reduction_0"
    given = {}
    net.cells[name].register_forward_pre_hook(lambda cell, inputs: given.update({name: inputs}))
    net(draw(2, 32))
    inputs = [x.detach().requires_grad_() for x in given[name][:2]]
    assert saved_maps(net.cells[name], *inputs) == sorted((True, tuple(x.shape)) for x in inputs)
    net.set_activation_memory("keep")
    assert len(saved_maps(net.cells[name], *inputs)) > 20


def test_an_unknown_activation_memory_names_the_known():
    with pytest.raises(ValueError, match="'little', expected one of keep, lean, checkpoint"):
        create("nasnet_a_cifar", cells_per_stage=1, filters=8).set_activation_memory("little")


def test_lean_refuses_norms_it_cannot_recompute():
    net = nn.SyncBatchNorm.convert_sync_batchnorm(create("nasnet_a_cifar", cells_per_stage=1, filters=8))
    net.set_activation_memory("lean")
    with pytest.raises(ValueError, match="SyncBatchNorm: use 'checkpoint'"):
        net.train()(torch.randn(2, 3, 32, 32))


@pytest.mark.parametrize("mode", ACTIVATION_MEMORY)
def test_one_value_per_channel_has_no_variance_in_any_activation_memory(mode):
    net = create("nasnet_a_cifar", cells_per_stage=1, filters=8)
    net.set_activation_memory(mode)
    with pytest.raises(ValueError, match="value per channel"):
        net.train()(torch.randn(1, 3, 4, 4))
    assert all(buffer.isfinite().all() for buffer in net.buffers())


def test_a_step_in_bfloat16_stays_near_the_exact_one_and_the_same_in_every_activation_memory():
    net, images = small_net().float(), draw(4, 32, torch.float32)
    exact = trained_step(copy.deepcopy(net), images)
    with torch.autocast("cpu", torch.bfloat16):
        keep, *leaner = (trained_step(in_mode(net, mode), images) for mode in ACTIVATION_MEMORY)
    # 8 bits: logits to 5 %, and of a gradient little but the direction.
    assert_same({"logits": keep["output 0"]}, {"logits": exact["output 0"]}, 0.05)
    assert mean_cosine(keep, exact) > 0.9
    for step in leaner:
        assert_same(step, keep, 0.1)


def test_a_second_backward_pass_through_checkpointed_cells_adds_the_same_gradients_again():
    net = in_mode(small_net(), "checkpoint").train()
    loss = net(draw(2, 32)).square().sum()
    loss.backward(retain_graph=True)
    once = [parameter.grad.clone() for parameter in net.parameters()]
    buffers = [buffer.clone() for buffer in net.buffers()]
    loss.backward()
    torch.testing.assert_close([parameter.grad for parameter in net.parameters()], [2 * g for g in once])
    torch.testing.assert_close(list(net.buffers()), buffers)


@pytest.mark.parametrize("mode", ACTIVATION_MEMORY)
def test_gradients_can_be_differentiated_in_turn(mode):
    """As gradient penalties do; the plain layout trains by PyTorch's own batch norm alone."""

    def penalty(net: NASNet, images: torch.Tensor) -> dict[str, torch.Tensor]:
        images = images.clone(memory_format=torch.preserve_format).requires_grad_()
        (slope,) = torch.autograd.grad(net.train()(images).square().sum(), images, create_graph=True)
        slope.square().sum().backward()
        # The classifier's shift has none: it stays out of the slope where the last map decides alone.
        return {f"gradient of {name}": p.grad for name, p in net.named_parameters() if p.grad is not None}

    plain, images = small_net(), draw(2, 32)
    other = in_mode(plain, mode).to(memory_format=CHANNELS_LAST)
    expected = penalty(plain, images.contiguous())
    assert any(gradient.any() for gradient in expected.values())
    assert_same(penalty(other, images), expected)


@pytest.mark.parametrize("mode", ["keep", "lean"])
def test_functions_of_torch_func_get_the_same_gradients(mode):
    net, images = in_mode(small_net(), mode).train().to(memory_format=CHANNELS_LAST), draw(2, 32)
    weights, buffers = dict(net.named_parameters()), dict(net.named_buffers())

    def loss(weights):
        copies = {name: value.clone() for name, value in buffers.items()}
        return torch.func.functional_call(net, (weights, copies), (images,)).square().sum()

    found = torch.func.grad(loss)(weights)
    net(images).square().sum().backward()
    expected = {f"gradient of {name}": value.grad for name, value in weights.items()}
    assert_same({f"gradient of {name}": value for name, value in found.items()}, expected)


def test_an_ensemble_trains_under_vmap():
    nets = [calibrate(small_net(), seed, size=32).train().to(memory_format=CHANNELS_LAST) for seed in (0, 1)]
    weights, buffers = torch.func.stack_module_state(nets)
    one, images = copy.deepcopy(nets[0]), draw(2, 32)
    together = torch.func.vmap(
        lambda weights, buffers: torch.func.functional_call(one, (weights, buffers), (images,))
    )(weights, buffers)
    torch.testing.assert_close(together, torch.stack([net(images) for net in nets]))


NARROW_SHAPES = [(2, 3, 8, 8), (4, 11, 14, 14), (1, 15, 6, 7), (3, 11, 5, 5), (2, 1, 4, 4), (2, 5, 1, 1)]


@pytest.mark.parametrize("momentum", [0.2, None])
@pytest.mark.parametrize("shape", NARROW_SHAPES)
def test_narrow_batch_norm_is_batch_norm(shape, momentum):
    channels = shape[1]
    assert channels < NARROW
    narrow = NarrowBatchNorm2d(channels, 1e-3, momentum).double()
    nn.init.normal_(narrow.weight)
    nn.init.normal_(narrow.bias)
    plain = nn.BatchNorm2d(channels, 1e-3, momentum).double()
    plain.load_state_dict(narrow.state_dict())
    for _ in range(2):  # steps
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
    images = images.contiguous(memory_format=CHANNELS_LAST)
    assert_same(trained_step(layer, images), trained_step(plain, images))
