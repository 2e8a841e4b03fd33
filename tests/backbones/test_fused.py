"""A fused network answers as the network it was made of."""

import copy

import pytest
import torch
from genotypes import small_specs
from hypothesis import given, settings
from hypothesis import strategies as st
from steps import answers, assert_same
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from backbones import create
from backbones.fused import MERGE_UP_TO_ROWS
from backbones.fused_operations import CONVOLVE_FROM_ROWS
from backbones.genotype import OPERATION_NAMES, Block, Cell, Genotype
from backbones.network import NASNet
from backbones.spec import NetworkSpec
from benchmarks.calibration import calibrate


def draw(images: int, size: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(images, 3, size, size, dtype=dtype).contiguous(memory_format=torch.channels_last)


def small_net(auxiliary: bool = False) -> NASNet:
    net = create("nasnet_a_cifar", 10, cells_per_stage=1, filters=8, auxiliary=auxiliary)
    return calibrate(net, size=32)


@settings(max_examples=10, deadline=None)
@given(spec=small_specs(st.sampled_from([32, 33, 47])), seed=st.integers(0, 99))
def test_a_fused_network_gives_the_same_outputs(spec, seed):
    net = calibrate(NASNet(spec, 5).double(), seed, size=spec.image_size)
    images = draw(2, spec.image_size)
    assert_same(answers(net.fuse(), images), answers(net, images))


@pytest.mark.parametrize("combine", ["add", "concat"])
@pytest.mark.parametrize("operation", OPERATION_NAMES)
def test_every_operation_is_fused(operation, combine):
    cell = Cell(
        (Block(0, 1, operation, "sep_conv_3x3", combine), Block(2, 0, operation, operation, combine)),
        (0, 2, 3),
    )
    spec = NetworkSpec(Genotype(cell, cell), 1, 8, stem="cifar", stem_filters=6, image_size=17)
    net, images = calibrate(NASNet(spec, 5).double(), size=17), draw(2, 17)
    assert_same(answers(net.fuse(), images), answers(net, images))


def test_a_cell_without_weights_is_fused_in_the_precision_of_the_others():
    pools = Cell((Block(1, 1, "max_pool_3x3", "avg_pool_3x3", "add"),), (2,))
    spec = NetworkSpec(Genotype(pools, pools), 1, 8, stem="cifar", stem_filters=8, image_size=16)
    net, images = calibrate(NASNet(spec, 5).double(), size=16), draw(2, 16)
    assert not list(net.cells["cell_0"].parameters())
    assert_same(answers(net.fuse(), images), answers(net, images))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
@pytest.mark.parametrize("images", [1, 3])
def test_small_and_large_maps_take_different_ways_to_one_answer(images, dtype, tolerance):
    net = calibrate(create("nasnet_a_mobile", 10, cells_per_stage=1, filters=8))
    rows = images * 28 * 28  # of the first stage at 224 px
    assert rows <= MERGE_UP_TO_ROWS if images == 1 else rows >= CONVOLVE_FROM_ROWS
    pixels = draw(images, 224)
    exact = answers(copy.deepcopy(net).double(), pixels)
    assert_same(answers(net.to(dtype).fuse(), pixels.to(dtype)), exact, tolerance)


def test_the_network_stays_as_it_was():
    net = small_net(auxiliary=True).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    fused = net.fuse()
    fused(draw(2, 32, torch.float32))
    for parameter in fused.parameters():
        assert not parameter.requires_grad
        parameter.zero_()
    assert all(module.training for module in net.modules())
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert list(net.state_dict()) == list(before)
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_no_batch_norm_and_no_auxiliary_head_are_left():
    fused = small_net(auxiliary=True).fuse()
    assert not fused.training
    assert fused.auxiliary is None
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    logits, auxiliary_logits = fused.forward_with_aux(draw(1, 32, torch.float32))
    assert (logits.shape, auxiliary_logits) == ((1, 10), None)


def test_images_in_the_plain_layout_give_the_same_logits():
    net = small_net().double()
    images = draw(2, 32)
    assert_same(answers(net.fuse(), images.contiguous()), answers(net, images))


@pytest.mark.parametrize("again", [NASNet.fuse, copy.deepcopy])
@pytest.mark.parametrize("images", [1, 2])  # separable convolutions merged, and each on its own
def test_a_copy_of_a_fused_network_answers_on_its_own(again, images):
    fused = small_net().double().fuse()
    assert (images * 32 * 32 <= MERGE_UP_TO_ROWS) == (images == 1)
    pixels = draw(images, 32)
    expected = answers(fused, pixels)
    copied = again(fused)
    assert_same(answers(copied, pixels), expected)
    for parameter in fused.parameters():
        parameter.zero_()
    assert_same(answers(copied, pixels), expected)


def test_the_drop_path_schedule_leaves_a_fused_network_alone():
    net = create("nasnet_a_cifar", 10, cells_per_stage=1, filters=8, drop_path_keep=0.5)
    fused = calibrate(net.double(), size=32).fuse()
    images = draw(2, 32)
    expected = answers(fused, images)
    fused.set_progress(1.0)
    fused.set_activation_memory("checkpoint")
    assert_same(answers(fused, images), expected)


def test_norms_synchronised_over_processes_are_folded_too():
    net, images = small_net().double(), draw(2, 32)
    expected = answers(net, images)
    fused = nn.SyncBatchNorm.convert_sync_batchnorm(net).fuse()
    assert not any(isinstance(module, nn.SyncBatchNorm) for module in fused.modules())
    assert_same(answers(fused, images), expected)


def test_another_precision_is_a_conversion_and_autocast_is_refused():
    net, images = small_net(), draw(4, 32, torch.float32)
    fused = net.fuse()
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(ValueError, match="does not run under autocast"),
    ):
        fused(images)
    low = copy.deepcopy(fused).to(torch.bfloat16)
    # bfloat16 keeps 8 bits, an error of 1/256 in each of some ten layers, and seldom twice the sum of them.
    assert_same(answers(low, images.to(torch.bfloat16)), answers(net, images), 0.1)


def test_weights_that_are_assigned_take_effect_in_merged_convolutions_too():
    fused, other = small_net().double().fuse(), calibrate(small_net(), seed=1, size=32).double().fuse()
    images = draw(1, 32)
    assert images.shape[0] * 32 * 32 <= MERGE_UP_TO_ROWS
    assert all(list(cell.merged) for cell in fused.cells.values())
    expected = answers(other, images)
    fused.load_state_dict(other.state_dict(), assign=True)
    assert_same(answers(fused, images), expected)


@pytest.mark.parametrize("where", ["images", "weights"])
def test_gradients_are_refused_where_they_are_asked_for(where):
    fused, images = small_net().fuse(), draw(1, 32, torch.float32)
    (images if where == "images" else fused).requires_grad_()
    with pytest.raises(ValueError, match="a fused network computes no gradients"):
        fused(images)
    with torch.no_grad():
        assert fused(images).shape == (1, 10)


@pytest.mark.parametrize("combine", ["add", "concat"])
def test_no_images_have_no_logits(combine):
    cell = Cell.with_unused_concat(
        [Block(0, 1, "sep_conv_3x3", "sep_conv_3x3", combine), Block(0, 2, "identity", "max_pool_3x3")]
    )
    spec = NetworkSpec(Genotype(cell, cell), 1, 8, stem="cifar", stem_filters=6, image_size=16)
    net = NASNet(spec, 5).eval()
    for each in (net, net.fuse()):
        found = answers(each, draw(0, 16, torch.float32))
        assert found["logits"].shape == (0, 5)
        assert found["end point cell_0"].shape == (0, 8, 16, 16)


def with_norms(net: NASNet, make) -> NASNet:
    """make: from batch norm to what takes its place."""
    for module in list(net.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, make(child))
    return net


def frozen(norm: nn.BatchNorm2d) -> FrozenBatchNorm2d:
    result = FrozenBatchNorm2d(norm.num_features, norm.eps)
    result.load_state_dict(norm.state_dict())
    return result


def test_frozen_batch_norm_is_folded_too():
    net, images = small_net(), draw(2, 32)
    expected = answers(copy.deepcopy(net).double(), images)
    fused = with_norms(net, frozen).double().fuse()
    assert not any(isinstance(module, FrozenBatchNorm2d) for module in fused.modules())
    assert_same(answers(fused, images), expected)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda norm: nn.GroupNorm(1, norm.num_features), "GroupNorm"),
        (lambda norm: nn.BatchNorm2d(norm.num_features, track_running_stats=False), "BatchNorm2d"),
    ],
)
def test_norms_without_running_statistics_are_refused(make, name):
    with pytest.raises(ValueError, match=f"batch norm with running statistics, which {name} here does not"):
        with_norms(small_net(), make).fuse()
