import pytest
import torch
from calibration import calibrate
from genotypes import small_specs
from hypothesis import given, settings
from hypothesis import strategies as st

from backbones import create
from backbones.fused import CONVOLVE_FROM_ROWS, MERGE_UP_TO_ROWS
from backbones.genotype import OPERATION_NAMES, Block, Cell, Genotype
from backbones.network import NASNet
from backbones.spec import NetworkSpec


def assert_equal(net: NASNet, images: torch.Tensor) -> None:
    net = net.to(memory_format=torch.channels_last).eval()
    fused = net.fuse()
    images = images.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        torch.testing.assert_close(fused(images), net(images))
        for outputs in ("features", "endpoints"):
            expected = getattr(net, outputs)(images)
            actual = getattr(fused, outputs)(images)
            assert list(actual) == list(expected)
            for name, value in expected.items():
                torch.testing.assert_close(actual[name], value, msg=lambda m, name=name: f"{name}: {m}")


@settings(max_examples=25, deadline=None)
@given(spec=small_specs(st.sampled_from([32, 33, 47])), seed=st.integers(0, 99))
def test_a_fused_network_gives_the_same_outputs(spec, seed):
    net = calibrate(NASNet(spec, 5).double(), seed, size=spec.image_size)
    assert_equal(net, torch.randn(2, 3, spec.image_size, spec.image_size, dtype=torch.float64))


@pytest.mark.parametrize("combine", ["add", "concat"])
@pytest.mark.parametrize("operation", OPERATION_NAMES)
def test_every_operation_is_fused(operation, combine):
    cell = Cell(
        (Block(0, 1, operation, "sep_conv_3x3", combine), Block(2, 0, operation, operation, combine)),
        (0, 2, 3),
    )
    spec = NetworkSpec(Genotype(cell, cell), 1, 8, stem="cifar", stem_filters=6, image_size=17)
    assert_equal(calibrate(NASNet(spec, 5).double(), size=17), torch.randn(2, 3, 17, 17, dtype=torch.float64))


@pytest.mark.parametrize("images", [1, 3])
def test_small_and_large_maps_take_different_ways_to_one_answer(images):
    net = calibrate(create("nasnet_a_mobile", 10, cells_per_stage=1, filters=8).double())
    rows = images * 28 * 28  # of the first stage at 224 px
    assert rows <= MERGE_UP_TO_ROWS if images == 1 else rows >= CONVOLVE_FROM_ROWS
    assert_equal(net, torch.randn(images, 3, 224, 224, dtype=torch.float64))


def test_the_network_stays_as_it_was():
    net = calibrate(
        create("nasnet_a_cifar", 10, cells_per_stage=1, filters=8, auxiliary=True), size=32
    ).eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    fused = net.fuse()
    fused(torch.randn(2, 3, 32, 32))
    assert net.auxiliary is not None
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert not any(parameter.requires_grad for parameter in fused.parameters())
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in fused.modules())


def test_images_in_the_plain_layout_give_the_same_logits():
    fused = calibrate(create("nasnet_a_cifar", 10, cells_per_stage=1, filters=8), size=32).fuse()
    images = torch.randn(2, 3, 32, 32)
    channels_last = images.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(fused(images), fused(channels_last))
