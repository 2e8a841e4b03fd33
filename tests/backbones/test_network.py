import logging
import math

import pytest
import torch

from backbones import NASNet, NetworkSpec, create, list_models, load, profile, save
from backbones.cell import DropPath, drop_path_keep
from backbones.genotype import OPERATION_NAMES, Block, Cell, Genotype
from backbones.layers import FactorizedReduction, Layers, Pool, SameConv2d
from backbones.operations import OPERATIONS
from backbones.published import NASNET_A
from backbones.spec import Preprocessing
from backbones.zoo import ZOO


def on_meta(name, classes, **training):
    with torch.device("meta"):
        return create(name, classes, **training)


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


# Figures: docs/nasnet.md, section 4.4. They agree with TF-slim's, Keras' and timm's networks.
@pytest.mark.parametrize(
    ("name", "classes", "trainable", "with_statistics", "multiply_adds"),
    [
        ("nasnet_a_mobile", 1000, 5_289_978, 5_326_716, 563.6e6),
        ("nasnet_a_large", 1000, 88_753_150, 88_949_818, 23.783e9),
        ("nasnet_a_cifar", 10, 3_346_538, 3_383_786, 544e6),
        ("nasnet_a_mobile", 1001, 5_291_035, 5_327_773, 563.6e6),
    ],
)
def test_nasnet_a_is_exact(name, classes, trainable, with_statistics, multiply_adds):
    counted = profile(ZOO[name], num_classes=classes)
    assert counted.parameters == trainable
    assert counted.parameters + counted.buffers == with_statistics
    assert counted.multiply_adds == pytest.approx(multiply_adds, rel=1e-3)
    assert parameters(on_meta(name, classes)) == trainable


@pytest.mark.parametrize(
    ("name", "classes", "expected"),
    [
        ("nasnet_a_mobile", 1000, 2_411_240),
        ("nasnet_a_large", 1000, 4_567_784),
        ("nasnet_a_cifar", 10, 1_631_498),
    ],
)
def test_auxiliary_head_is_exact(name, classes, expected):
    assert parameters(on_meta(name, classes, auxiliary=True).auxiliary) == expected


def stages(n, channels, sides):
    """End points of the body: first and last normal cell of each stage, and the reduction cells."""
    body = {}
    for stage, side in enumerate(sides):
        if stage:
            body[f"reduction_{stage - 1}"] = (channels * 4 * 2**stage // 6, side)
        for cell in (stage * n, stage * n + n - 1):
            body[f"cell_{cell}"] = (channels * 2**stage, side)
    return body


CIFAR = {"stem": (96, 32), **stages(6, 192, (32, 16, 8))}
MOBILE = {"stem": (32, 111), "stem_0": (44, 56), "stem_1": (88, 28), **stages(4, 264, (28, 14, 7))}
LARGE = {"stem": (96, 165), "stem_0": (168, 83), "stem_1": (336, 42), **stages(6, 1008, (42, 21, 11))}


@pytest.mark.parametrize(
    ("name", "expected"), [("nasnet_a_cifar", CIFAR), ("nasnet_a_mobile", MOBILE), ("nasnet_a_large", LARGE)]
)
def test_end_points_have_the_shapes_of_tf_slim(name, expected):
    net = on_meta(name, 10)
    size = net.spec.image_size
    endpoints = net.endpoints(torch.empty(1, 3, size, size, device="meta"))
    assert len(endpoints) == 1 + len(net.plans)
    found = {key: tuple(endpoints[key].shape[1:]) for key in expected}
    assert found == {key: (channels, side, side) for key, (channels, side) in expected.items()}


@pytest.mark.parametrize(
    ("size", "chain"),
    [
        (224, (111, 56, 28, 14, 7)),
        (299, (149, 75, 38, 19, 10)),
        (331, (165, 83, 42, 21, 11)),
        (600, (299, 150, 75, 38, 19)),
        (64, (31, 16, 8, 4, 2)),
        (65, (32, 16, 8, 4, 2)),
    ],
)
@pytest.mark.parametrize("padding", ["same", "symmetric"])
def test_maps_halve_as_in_the_paper_at_any_size(size, chain, padding):
    with torch.device("meta"):
        net = create("nasnet_a_mobile", 10, cells_per_stage=1, filters=8, padding=padding)
        endpoints = net.endpoints(torch.empty(1, 3, size, size))
    sides = tuple(
        endpoints[key].shape[-1] for key in ("stem", "stem_0", "stem_1", "reduction_0", "reduction_1")
    )
    assert sides == chain


def test_features_are_the_last_maps_of_each_stride_after_the_relu():
    torch.manual_seed(0)
    net = create("nasnet_a_mobile", 10, cells_per_stage=2, filters=8, stem_filters=8).eval()
    x = torch.randn(2, 3, 96, 80)
    features, endpoints = net.features(x), net.endpoints(x)
    assert [info.stride for info in net.feature_info] == [4, 8, 16, 32]
    for info, source in zip(net.feature_info, ["stem_0", "cell_1", "cell_3", "cell_5"], strict=True):
        assert features[info.name].shape[1] == info.channels
        assert features[info.name].shape[2] == -(-(96 - 1) // info.stride)
        torch.testing.assert_close(features[info.name], endpoints[source].relu())
    logits = net.classifier(features["c5"].mean((2, 3)))
    torch.testing.assert_close(net(x), logits)


def test_first_cell_after_a_reduction_reads_what_the_skip_flag_says():
    plans = {plan.name: plan for plan in create("nasnet_a_mobile", 10, cells_per_stage=2, filters=8).plans}
    names = ["stem", *plans]
    assert names[plans["cell_2"].h] == "reduction_0"
    assert names[plans["cell_2"].h_prev] == "cell_1"
    net = create("nasnet_a_mobile", 10, cells_per_stage=2, filters=8, skip_reduction_input=True)
    plans = {plan.name: plan for plan in net.plans}
    assert names[plans["reduction_0"].h_prev] == names[plans["cell_2"].h_prev] == "cell_0"
    assert names[plans["cell_3"].h_prev] == "reduction_0"
    assert net(torch.randn(1, 3, 64, 64)).shape == (1, 10)


def test_cells_without_a_reader_are_not_built():
    reads_previous = Cell.with_unused_concat([Block(1, 1, "sep_conv_3x3", "identity")])
    genotype = Genotype(reads_previous, NASNET_A.reduction)
    net = NASNet(NetworkSpec(genotype, 2, 8, stem="cifar", stem_filters=8, image_size=32), 3)
    # cell_5 reads reduction_1, that reads cell_3 and cell_2, cell_3 reads reduction_0, cell_2 reads cell_1.
    assert list(net.cells) == ["cell_0", "cell_1", "reduction_0", "cell_2", "cell_3", "reduction_1", "cell_5"]
    assert net(torch.randn(2, 3, 32, 32)).shape == (2, 3)


@pytest.mark.parametrize("operation", OPERATION_NAMES)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", ["same", "symmetric"])
def test_every_operation_maps_to_the_channels_and_size_asked_for(operation, stride, padding):
    layers = Layers(padding, 1e-3, 0.1)
    for size in (7, 8):
        module = OPERATIONS[operation].build(layers, 6, 4, stride)
        out = module(torch.randn(2, 6, size, size + 1))
        assert out.shape == (2, 4, -(-size // stride), -(-(size + 1) // stride))


def tensorflow_same(x, kernel, stride, value):
    """Padding by TensorFlow's definition: the odd row or column comes after."""
    pads = []
    for size in reversed(x.shape[2:]):
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        pads += [total // 2, total - total // 2]
    return torch.nn.functional.pad(x, pads, value=value)


@pytest.mark.parametrize("size", [7, 8, 9, 14])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 2), (7, 2)])
def test_pools_and_convolutions_pad_as_tensorflow_same(size, kernel, stride):
    torch.manual_seed(0)
    x = torch.randn(1, 2, size, size + 1)
    largest = torch.nn.functional.max_pool2d(tensorflow_same(x, kernel, stride, -torch.inf), kernel, stride)
    torch.testing.assert_close(Pool("max", kernel, stride, "same")(x), largest)
    ones = torch.nn.functional.avg_pool2d(
        tensorflow_same(torch.ones_like(x), kernel, stride, 0), kernel, stride
    )
    mean = torch.nn.functional.avg_pool2d(tensorflow_same(x, kernel, stride, 0), kernel, stride) / ones
    torch.testing.assert_close(Pool("avg", kernel, stride, "same")(x), mean)
    conv = Layers("same", 1e-3, 0.1).conv(2, 3, kernel, stride)
    assert isinstance(conv, SameConv2d) == (stride == 2)
    expected = torch.nn.functional.conv2d(tensorflow_same(x, kernel, stride, 0), conv.weight, stride=stride)
    torch.testing.assert_close(conv(x), expected)


@pytest.mark.parametrize("size", [5, 6])
def test_factorized_reduction_sees_every_pixel(size):
    reduction = FactorizedReduction(Layers("same", 1e-3, 0.1), 1, 2).eval()
    for parameter in (reduction.path.weight, reduction.shifted_path.weight):
        torch.nn.init.ones_(parameter)
    x = torch.arange(1.0, 1 + size * size).reshape(1, 1, size, size)
    shifted = torch.zeros(1, 1, -(-size // 2), -(-size // 2))
    odd = x[:, :, 1::2, 1::2]
    shifted[:, :, : odd.shape[2], : odd.shape[3]] = odd
    expected = torch.cat([x[:, :, ::2, ::2], shifted], 1) / (1 + 1e-3) ** 0.5
    torch.testing.assert_close(reduction(x), expected)


def test_concat_comes_back_to_the_width_of_a_state():
    cell = Cell.with_unused_concat([Block(0, 1, "conv_1x1", "identity", "concat")])
    net = NASNet(NetworkSpec(Genotype(cell, cell), 1, 8, stem="cifar", stem_filters=8, image_size=32), 5)
    project = net.cells["cell_0"].blocks["0"].project
    assert (project[0].in_channels, project[0].out_channels) == (16, 8)
    assert net.feature_info[0].channels == 8


def test_dead_blocks_are_not_built():
    live = Block(0, 1, "sep_conv_3x3", "identity")
    dead = Block(0, 0, "conv_3x3", "conv_3x3")
    with_dead, without = Cell((dead, live), (3,)), Cell((live,), (2,))
    counts = [
        profile(NetworkSpec(Genotype(cell, cell), 1, 8, image_size=32)).parameters
        for cell in (with_dead, without)
    ]
    assert counts[0] == counts[1]


# End-of-training values of the schedule: docs/nasnet.md, section 4.6.
@pytest.mark.parametrize(
    ("cell", "cells", "progress", "final", "expected"),
    [
        (0, 20, 1.0, 0.6, 0.98),
        (19, 20, 1.0, 0.6, 0.6),
        (21, 22, 1.0, 0.7, 0.7),
        (0, 22, 1.0, 0.7, 1 - 0.3 / 22),
        (19, 20, 0.5, 0.6, 0.8),
        (19, 20, 0.0, 0.6, 1.0),
        (19, 20, 7.0, 0.6, 0.6),
    ],
)
def test_drop_path_falls_with_depth_and_time(cell, cells, progress, final, expected):
    assert drop_path_keep(cell, cells, progress, final) == pytest.approx(expected)


def test_drop_path_drops_whole_examples_and_keeps_the_mean():
    torch.manual_seed(0)
    drop = DropPath()
    drop.keep = 0.6
    out = drop.train()(torch.ones(20_000, 2, 1, 1))
    assert out.unique().tolist() == [0.0, pytest.approx(1 / 0.6)]
    assert torch.equal(out[:, 0], out[:, 1])
    assert out.mean().item() == pytest.approx(1.0, abs=0.03)
    assert torch.equal(drop.eval()(torch.ones(3, 2, 1, 1)), torch.ones(3, 2, 1, 1))


def test_identity_is_never_dropped_and_progress_reaches_every_cell():
    net = create("nasnet_a_cifar", 10, cells_per_stage=1, filters=4, drop_path_keep=0.6)
    net.set_progress(0.5)
    for index, cell in enumerate(net.cells.values()):
        keeps = {module.keep for module in cell.modules() if isinstance(module, DropPath)}
        assert keeps == {drop_path_keep(index, len(net.cells), 0.5, 0.6)}
    block = net.cells["cell_0"].blocks["2"]  # avg_pool_3x3(h_i) + identity(h_{i-1})
    assert isinstance(block.left_drop, DropPath)
    assert isinstance(block.right_drop, torch.nn.Identity)


def test_auxiliary_head_is_for_training_and_left_out_where_its_map_is_small(caplog):
    net = create("nasnet_a_cifar", 10, cells_per_stage=1, filters=4, auxiliary=True)
    x = torch.randn(2, 3, 32, 32)
    logits, auxiliary = net.forward_with_aux(x)
    assert logits.shape == auxiliary.shape == (2, 10)
    assert net.eval().forward_with_aux(x)[1] is None
    with caplog.at_level(logging.INFO):
        small = create("nasnet_a_mobile", 10, cells_per_stage=1, filters=8, image_size=64, auxiliary=True)
    assert small.auxiliary is None
    assert "4x4 at 64 px" in caplog.text


def test_weights_start_as_in_tensorflow():
    net = create("nasnet_a_cifar", 10, cells_per_stage=1, filters=32)
    depthwise = net.cells["cell_0"].blocks["0"].left[0].weight  # sep 5x5: fan out 25 of one channel
    pointwise = net.cells["cell_0"].blocks["0"].left[1].weight
    for weight, fan_out in ((depthwise, 25), (pointwise, 32)):
        bound = 2 * (1.3 * 2 / fan_out) ** 0.5
        assert weight.abs().max() <= bound
        # A normal cut at two standard deviations keeps 0.8796 of its spread.
        assert weight.std().item() == pytest.approx(0.8796 * bound / 2, rel=0.1)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"filters": 10}, "filters = 10, but the imagenet stem halves them twice"),
        ({"filters": 0}, "filters = 0, must be a whole number from 1 on"),
        ({"cells_per_stage": 0}, "cells_per_stage = 0"),
        ({"stem": "resnet"}, "stem = 'resnet', expected one of imagenet, cifar"),
        ({"padding": "full"}, "padding = 'full', expected one of same, symmetric"),
        ({"image_size": 2}, "image_size = 2, the imagenet stem needs at least 3"),
        ({"skip_reduction_input": 1}, "skip_reduction_input = 1, expected true or false"),
        ({"batch_norm_eps": 0.0}, r"batch_norm_eps = 0.0, must be in \(0, 1\]"),
        ({"batch_norm_momentum": 0.0}, r"batch_norm_momentum = 0.0, must be in \(0, 1\]"),
        ({"batch_norm_momentum": 1.5}, r"batch_norm_momentum = 1.5, must be in \(0, 1\]"),
        ({"depth": 3}, "unknown network field 'depth'"),
    ],
)
def test_a_wrong_size_is_named(overrides, message):
    with pytest.raises(ValueError, match=message):
        create("nasnet_a_mobile", 10, **overrides)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": 0}, r"size = 0, must be in 1\.\.4096"),
        ({"crop": 0.0}, r"crop = 0.0, must be in \(0, 1\]"),
        ({"mean": (0.5,)}, "std = .*, expected 1 finite values above 0"),
        ({"std": (0.5, 0.5, 0.0)}, "std = .*, expected 3 finite values above 0"),
        ({"std": (0.5, 0.5, math.inf)}, "std = .*, expected 3 finite values above 0"),
        ({"mean": (0.5, math.nan, 0.5)}, "mean = .*, expected finite numbers"),
        ({"interpolation": "box"}, "interpolation = 'box', expected one of nearest, bilinear"),
    ],
)
def test_preprocessing_out_of_range_is_named(values, message):
    with pytest.raises(ValueError, match=message):
        Preprocessing(**{"size": 32, **values})


def test_a_run_holds_only_the_outputs_that_are_still_needed():
    net = create("nasnet_a_mobile", 10, cells_per_stage=3, filters=8, skip_reduction_input=True)
    last, x = len(net.plans), torch.randn(1, 3, 64, 64)
    assert set(net.run(x)) <= {last - 2, last - 1, last}
    assert set(net.run(x, taps={1, 4})) <= {1, 4, last - 2, last - 1, last}


def test_too_small_images_say_the_smallest():
    net = create("nasnet_a_mobile", 10, cells_per_stage=1, filters=8)
    with pytest.raises(ValueError, match="2x9 px, the network needs at least 3"):
        net(torch.randn(1, 3, 2, 9))


def test_an_unknown_name_answers_with_near_ones():
    with pytest.raises(ValueError, match="did you mean nasnet_a_mobile"):
        create("nasnet_mobile")
    assert list_models() == sorted(ZOO)


def test_a_genotype_file_becomes_a_network_of_the_size_asked_for(tmp_path):
    NASNET_A.save(tmp_path / "genotype.json")
    net = create(tmp_path / "genotype.json", 10, cells_per_stage=6, filters=32, stem="cifar", image_size=32)
    assert parameters(net) == 3_346_538
    with pytest.raises(ValueError, match="a genotype has no size, filters must be given"):
        create(tmp_path / "genotype.json", cells_per_stage=2)


@pytest.mark.parametrize("in_channels", [1, 4])
def test_images_may_have_any_number_of_channels(tmp_path, in_channels):
    size = {"cells_per_stage": 1, "filters": 8, "image_size": 32}
    net = create("nasnet_a_mobile", 3, in_channels=in_channels, **size).eval()
    assert len(net.preprocessing.mean) == len(net.preprocessing.std) == in_channels
    save(net, tmp_path / "backbone.safetensors")
    again = load(tmp_path / "backbone.safetensors")
    assert again.preprocessing == net.preprocessing
    images = torch.randn(2, in_channels, 32, 32)
    assert torch.equal(again(images), net(images))
