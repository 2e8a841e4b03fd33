"""`split`: a network cut in two computes what it does whole. Shapes: docs/nasnet.md, section 7."""

import pytest
import torch

from backbones.factory import create
from backbones.genotype import Block, Cell, Genotype
from backbones.network import NASNet
from backbones.spec import NetworkSpec
from backbones.zoo import ZOO

SMALL = {"cells_per_stage": 2, "filters": 8, "stem_filters": 4, "image_size": 64}


def small(name="nasnet_a_mobile", **changes):
    """With statistics and scales that are not those of a fresh network."""
    net = create(name, 10, **({} if name.startswith("timm/") else SMALL) | changes).eval()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.2, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    return net


def genotype(normal: tuple[int, int], reduction: tuple[int, int]) -> Genotype:
    """Cells of one block that reads the given states, and of the block's output alone."""
    cells = [
        Cell((Block(left, right, "sep_conv_3x3", "avg_pool_3x3", "add"),), (2,))
        for left, right in (normal, reduction)
    ]
    return Genotype(*cells)


def spec(cells: Genotype, **changes) -> NetworkSpec:
    values = {"genotype": cells, "cells_per_stage": 2, "filters": 8, "stem": "imagenet", "stem_filters": 8}
    return NetworkSpec(**values | {"image_size": 64} | changes)


@pytest.mark.parametrize(
    ("name", "channels", "sides"),
    [
        ("nasnet_a_large", 4032, {299: 19, 224: 14, 112: 7}),
        ("nasnet_a_mobile", 1056, {600: 38}),
    ],
)
def test_maps_have_the_published_shapes(name, channels, sides):
    with torch.device("meta"):
        split = NASNet(ZOO[name]).split(16)
        for side, places in sides.items():
            assert split.trunk(torch.empty(2, 3, side, side)).shape == (2, channels, places, places)
        assert split.tail(torch.empty(3, channels, 17, 17)).shape == (3, channels, 9, 9)
    assert (split.stride, split.channels, split.tail_channels) == (16, channels, channels)


def test_the_map_is_cells_10_and_11_before_their_relu():
    net = small(cells_per_stage=6)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        cells = net.endpoints(x)
        assert torch.equal(net.split().trunk(x), torch.cat([cells["cell_10"], cells["cell_11"]], dim=1))


@pytest.mark.parametrize("cells", [1, 3])
@pytest.mark.parametrize("skip", [False, True])
def test_both_halves_give_the_whole(cells, skip):
    net = small(cells_per_stage=cells, skip_reduction_input=skip)
    x = torch.randn(2, 3, 70, 90)
    with torch.no_grad():
        split = net.split()
        torch.testing.assert_close(split.tail(split.trunk(x)), net.features(x)["c5"])


# Each cell reads: both inputs; the last output alone; the one before it alone.
@pytest.mark.parametrize("normal", [(0, 1), (0, 0), (1, 1)])
@pytest.mark.parametrize("reduction", [(0, 1), (0, 0), (1, 1)])
@pytest.mark.parametrize("skip", [False, True])
def test_cells_may_pass_others_by(normal, reduction, skip):
    net = NASNet(spec(genotype(normal, reduction), skip_reduction_input=skip), 10).eval()
    x = torch.randn(1, 3, 64, 64)
    split = net.split()
    with torch.no_grad():
        found = split.trunk(x)
        torch.testing.assert_close(split.tail(found), net.features(x)["c5"])
    assert found.shape[1:] == (split.channels, 4, 4)
    trunk = {
        name for name, _ in net.named_parameters() if not name.startswith(("classifier", *split.tail_modules))
    }
    assert trunk == gradients(net, found=split.trunk(x))


def gradients(net, found) -> set[str]:
    net.zero_grad()
    found.square().sum().backward()
    return {name for name, parameter in net.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("name", ["nasnet_a_mobile", "timm/test_resnet"])
def test_the_weights_are_the_networks_own_and_all_learn(name):
    net = small(name).train()
    net.remove_classifier()
    split = net.split()
    output = split.tail(split.trunk(torch.randn(2, 3, 64, 64)))
    assert gradients(net, output) == {parameter for parameter, _ in net.named_parameters()}
    net.zero_grad()
    of_trunk = gradients(net, split.trunk(torch.randn(2, 3, 64, 64)))
    of_tail = {
        parameter for parameter, _ in net.named_parameters() if parameter.startswith(split.tail_modules)
    }
    assert of_trunk == {parameter for parameter, _ in net.named_parameters()} - of_tail
    assert of_tail


def test_a_fused_network_is_split_alike():
    net = small()
    fused = net.fuse()
    x = torch.randn(2, 3, 70, 90)
    with torch.no_grad():
        map_, fused_map = net.split().trunk(x), fused.split().trunk(x)
        torch.testing.assert_close(fused_map, map_, rtol=1e-4, atol=1e-5 * map_.abs().max().item())
        crops = map_[:, :, :4, 1:5].contiguous(memory_format=torch.channels_last)
        expected = net.split().tail(crops)
        tolerance = 1e-5 * expected.abs().max().item()
        torch.testing.assert_close(fused.split().tail(crops), expected, rtol=1e-4, atol=tolerance)
    with pytest.raises(ValueError, match="a fused network computes no gradients"):
        fused.split().tail(crops.requires_grad_())


@pytest.mark.parametrize("mode", ["lean", "checkpoint"])
def test_the_modes_of_activation_memory_give_the_same_gradients(mode):
    net = small().train()
    crops = torch.randn(3, net.split().channels, 5, 5)

    def gradient():
        net.zero_grad()
        net.split().tail(crops).square().sum().backward()
        return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}

    expected = gradient()
    net.set_activation_memory(mode)
    for name, found in gradient().items():
        torch.testing.assert_close(found, expected[name], rtol=1e-3, atol=1e-3)


def test_the_cifar_stem_has_no_stride_16():
    net = create("nasnet_a_cifar", cells_per_stage=1, filters=4, stem_filters=4)
    with pytest.raises(ValueError, match="the cifar stem is split at stride 2, not 16"):
        net.split(16)


@pytest.mark.parametrize("name", ["resnet18", "test_resnet", "test_convnext", "test_efficientnet"])
def test_timms_stages_give_the_whole(name):
    net = small(f"timm/{name}")
    x = torch.randn(1, 3, 96, 70)
    with torch.no_grad():
        split = net.split()
        found = split.trunk(x)
        maps = net.features(x)
    assert torch.equal(found, maps["c4"])
    assert found.shape[1] == split.channels
    with torch.no_grad():
        torch.testing.assert_close(split.tail(found), maps["c5"], rtol=1e-4, atol=1e-4)
    assert split.tail_channels == maps["c5"].shape[1]


def test_a_network_of_timm_without_stages_says_so():
    with pytest.raises(
        ValueError, match=r"timm/test_vit cannot be split at stride 16: its last two maps must"
    ):
        create("timm/test_vit", 10).split(16)


@pytest.mark.parametrize("name", ["resnet18", "test_resnet", "test_efficientnet"])
def test_timms_batch_norm_is_folded_for_inference(name):
    net = small(f"timm/{name}").train()  # whatever the mode, the copy is for evaluation
    fused = net.fuse()
    x = torch.randn(1, 3, 96, 70)
    net.eval()
    with torch.no_grad():
        for output, expected in zip(
            (fused(x), *fused.features(x).values()), (net(x), *net.features(x).values()), strict=True
        ):
            tolerance = 1e-5 * expected.abs().max().item()
            torch.testing.assert_close(output, expected, rtol=1e-4, atol=tolerance)
        torch.testing.assert_close(fused.split().trunk(x), fused.features(x)["c4"])
    kept = [module for module in fused.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert len(kept) == 0
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in net.modules())
    assert not any(parameter.requires_grad for parameter in fused.parameters())
    assert "cannot be stored" in fused.unstorable
