"""Our networks as timm's users meet them, held against what timm's own tests ask of its networks."""

import copy
import math
import re
import subprocess
import sys

import pytest
import timm
import torch
from timm.optim import create_optimizer_v2
from torch import nn

import backbones.timm_models  # noqa: F401 (registers the zoo)
from backbones import FeatureInfo, create, list_models, load, save
from backbones.cell import DropPath
from backbones.zoo import ZOO
from benchmarks.calibration import calibrate

SMALL = {"cells_per_stage": 1, "filters": 8, "stem_filters": 4}


def small(name="nasnet_a_mobile", **arguments):
    torch.manual_seed(0)
    return timm.create_model(name, **SMALL, **arguments)


def images(side=64, channels=3):
    return torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def net():
    return calibrate(small(num_classes=7).eval())


@pytest.fixture
def twin(net):
    """The same network as `backbones.create` gives it."""
    twin = create("nasnet_a_mobile", 7, **SMALL)
    twin.load_state_dict(net.state_dict())
    return twin.eval()


def test_importing_the_package_leaves_timm_alone():
    code = "import sys, backbones; backbones.create('nasnet_a_mobile'); print('timm' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"


def test_timm_lists_every_network_of_the_zoo():
    assert sorted(timm.list_models(module="timm_models")) == list_models()


def test_logits_and_features_are_those_of_create(net, twin):
    x = images()
    torch.testing.assert_close(net(x), twin(x))
    torch.testing.assert_close(net.forward_features(x), twin.features(x)["c5"])
    _, maps = net.forward_intermediates(x)
    for ours, (name, theirs) in zip(maps[1:], twin.features(x).items(), strict=True):
        torch.testing.assert_close(ours, theirs, msg=name)
    torch.testing.assert_close(maps[0], twin.endpoints(x)["stem"].relu())


@pytest.mark.parametrize("name", ZOO)
def test_a_default_configuration_tells_the_truth(name):
    """The laws of timm's `test_model_default_cfgs`."""
    net = small(name).eval()
    cfg, x = net.pretrained_cfg, torch.randn(1, *net.pretrained_cfg["input_size"])
    assert cfg == net.default_cfg
    assert {f"{cfg['classifier']}.weight", f"{cfg['first_conv']}.weight"} <= net.state_dict().keys()
    assert net.num_classes == cfg["num_classes"] == net.get_classifier().out_features
    data = timm.data.resolve_model_data_config(net)
    ours = net.preprocessing
    assert data["input_size"] == (3, ours.size, ours.size)
    assert (data["mean"], data["std"], data["crop_pct"], data["interpolation"]) == (
        *(ours.mean, ours.std, ours.crop, ours.interpolation),
    )
    maps = net.forward_features(x)
    assert maps.shape == (1, net.num_features, *cfg["pool_size"])
    assert net.forward_head(maps, pre_logits=True).shape == (1, net.head_hidden_size)


@pytest.mark.parametrize(("pool", "width"), [("avg", 1), ("max", 1), ("avgmax", 1), ("catavgmax", 2)])
def test_pooling_and_classifier_can_be_changed_and_taken_away(pool, width):
    net, x = small(num_classes=7, global_pool=pool).eval(), images()
    maps = net.forward_features(x)
    assert net.head_hidden_size == width * net.num_features
    assert net(x).shape == (2, 7)
    torch.testing.assert_close(net.get_classifier()(net.forward_head(maps, pre_logits=True)), net(x))

    net.reset_classifier(3)
    assert (net.num_classes, net(x).shape) == (3, (2, 3))
    net.reset_classifier(0)
    torch.testing.assert_close(net(x), net.forward_head(maps, pre_logits=True))
    assert (net.num_classes, net(x).shape) == (0, (2, net.head_hidden_size))
    net.reset_classifier(0, "")
    assert torch.equal(net(x), maps)
    assert small(num_classes=0, global_pool="").eval()(x).shape == maps.shape
    net.reset_classifier(5, "avg")
    assert net(x).shape == (2, 5)


def test_the_average_pools_and_the_largest_pools():
    x = images()
    average, largest = (small(num_classes=0, global_pool=pool).eval() for pool in ("avg", "max"))
    maps = average.forward_features(x)
    torch.testing.assert_close(average(x), maps.mean(dim=(2, 3)))
    torch.testing.assert_close(largest(x), maps.amax(dim=(2, 3)))


@pytest.mark.parametrize("name", ["nasnet_a_mobile", "nasnet_a_cifar"])
def test_maps_are_announced_as_those_of_any_backbone(name):
    net = small(name).eval()
    maps = net.features(images())
    assert list(maps) == [info.name for info in net.feature_info]
    for info, x in zip(net.feature_info, maps.values(), strict=True):
        assert isinstance(info, FeatureInfo)
        assert (info.channels, math.ceil(64 / info.stride) - x.shape[2]) in ((x.shape[1], 0), (x.shape[1], 1))
        assert (info["num_chs"], info["reduction"]) == (info.channels, info.stride)
    assert [info.stride for info in copy.deepcopy(net).feature_info] == [i.stride for i in net.feature_info]


@pytest.mark.parametrize("name", ["nasnet_a_mobile", "nasnet_a_large", "nasnet_a_cifar"])
@pytest.mark.parametrize("side", [64, 75, 96])
def test_features_have_the_channels_and_reductions_that_their_information_states(name, side):
    net = small(name, features_only=True).eval()
    reductions = [1, 2, 4] if name == "nasnet_a_cifar" else [2, 4, 8, 16, 32]
    assert net.feature_info.reduction() == reductions
    maps = net(images(side))
    assert [x.shape[1] for x in maps] == net.feature_info.channels()
    for x, reduction in zip(maps, reductions, strict=True):
        # The unpadded first convolution of the imagenet stem loses up to one place.
        assert math.ceil(side / reduction) - x.shape[2] in (0, 1)
        assert x.shape[2] == x.shape[3]


@pytest.mark.parametrize(
    ("out_indices", "taken", "cells"),
    [
        ((0,), [0], []),
        ((1, 2, 3, 4), [1, 2, 3, 4], 7),
        ((1,), [1], ["stem_0"]),
        ((-3, -5), [0, 2], ["stem_0", "stem_1", "cell_0"]),
        (2, [3, 4], 7),
    ],
)
def test_any_subset_of_the_maps_comes_from_a_network_of_no_more_cells(net, out_indices, taken, cells):
    features = small(features_only=True, out_indices=out_indices)
    features.model.load_state_dict(net.state_dict(), strict=False)
    kept = list(features.model.cells)
    assert kept == cells or len(kept) == cells
    maps = features.eval()(images())
    wanted = net.forward_intermediates(images(), indices=taken, intermediates_only=True)
    for x, expected in zip(maps, wanted, strict=True):
        torch.testing.assert_close(x, expected)
    assert len(features.feature_info.channels()) == len(taken)
    features.train()
    sum(x.square().mean() for x in features(images())).backward()
    assert [name for name, p in features.named_parameters() if p.grad is None] == []


def test_a_network_that_ends_early_stays_a_network(net):
    expected = net.forward_intermediates(images(), indices=[2], intermediates_only=True)[0]
    assert net.prune_intermediate_layers([-3]) == [2]
    assert net.num_features == net.head_hidden_size == expected.shape[1]
    torch.testing.assert_close(net(images()), expected)
    net.reset_classifier(4, "avg")
    assert net(images()).shape == (2, 4)


def test_indices_and_layouts_that_do_not_exist_are_refused(net):
    for indices in ([5], [], 0, -1, 6):
        with pytest.raises(ValueError, match=rf"indices = {re.escape(str(indices))}, but there are 5 maps"):
            net.forward_intermediates(images(), indices=indices)
    with pytest.raises(ValueError, match=r"indices = \[\], but there are 5 maps"):
        net.prune_intermediate_layers([])
    with pytest.raises(ValueError, match="output_fmt = 'NHWC', only NCHW is known"):
        net.forward_intermediates(images(), output_fmt="NHWC")


def test_every_parameter_learns_and_dropping_is_on_as_asked():
    net = small(num_classes=7, drop_rate=0.25, drop_path_rate=0.4).train()
    net(images()).square().mean().backward()
    assert [name for name, parameter in net.named_parameters() if parameter.grad is None] == []
    assert net.dropout.p == net.drop_rate == 0.25
    last = {module.keep for module in net.cells["cell_2"].modules() if isinstance(module, DropPath)}
    first = {module.keep for module in net.cells["stem_0"].modules() if isinstance(module, DropPath)}
    assert last == {0.6}
    assert list(first) == pytest.approx([1 - 0.4 / 7])  # one of seven cells deep
    with pytest.raises(ValueError, match=r"drop_path_rate = 1.0, must be in \[0, 1\)"):
        small(drop_path_rate=1.0)
    with pytest.raises(TypeError, match="bottleneck"):
        small(bottleneck=4)


def test_a_copy_answers_alike_and_is_a_copy(net):
    x = images()
    twin = copy.deepcopy(net)
    assert torch.equal(twin(x), net(x))
    twin.reset_classifier(2)
    assert net(x).shape == (2, 7)


def test_weights_files_load_through_timm(net, twin, tmp_path):
    path, x = tmp_path / "backbone.safetensors", images()
    save(twin, path)
    loaded = small(pretrained=True, pretrained_cfg_overlay={"file": str(path), "num_classes": 7}).eval()
    torch.testing.assert_close(loaded(x), net(x))
    loaded = small(num_classes=7, checkpoint_path=str(path)).eval()
    torch.testing.assert_close(loaded(x), net(x))
    # Another number of classes: a fresh classifier on the loaded network.
    loaded = small(
        pretrained=True, num_classes=3, pretrained_cfg_overlay={"file": str(path), "num_classes": 7}
    )
    torch.testing.assert_close(loaded.eval().forward_features(x), net.forward_features(x))
    features = small(pretrained=True, features_only=True, pretrained_cfg_overlay={"file": str(path)})
    torch.testing.assert_close(features.eval()(x)[-1], net.forward_features(x))


def prune(net):
    net.prune_intermediate_layers([2], prune_head=False)
    net.reset_classifier(7, "avg")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda net: net.reset_classifier(7, "max"), "global_pool = 'max' cannot be stored; only 'avg' can"),
        (lambda net: net.reset_classifier(7, "catavgmax"), "global_pool = 'catavgmax' cannot be stored"),
        (lambda net: net.reset_classifier(0), "num_classes = 0, expected int >= 1"),
        (lambda net: net.remove_classifier(), "no longer the one .* missing classifier.weight"),
        (prune, "no longer the one .* missing cells.reduction_0"),
    ],
)
def test_what_a_weights_file_cannot_give_back_is_not_stored(net, tmp_path, change, message):
    change(net)
    with pytest.raises(ValueError, match=rf"net\.safetensors: .*{message}"):
        save(net, tmp_path / "net.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_network_of_timms_form_is_stored_as_any(net, twin, tmp_path):
    net.reset_classifier(3)
    save(net, tmp_path / "net.safetensors")
    torch.testing.assert_close(load(tmp_path / "net.safetensors")(images()), net(images()))


def test_loaded_weights_fit_other_numbers_of_channels(net, twin, tmp_path):
    path = tmp_path / "backbone.safetensors"
    save(twin, path)
    overlay = {"file": str(path), "num_classes": 7}
    grey = small(in_chans=1, pretrained=True, pretrained_cfg_overlay=overlay).eval()
    x = images(channels=1)
    # timm sums the filters, so that a grey picture gives what it gave as RGB.
    torch.testing.assert_close(grey(x), net(x.expand(-1, 3, -1, -1)))
    assert grey.in_chans == 1


def test_no_weights_are_promised():
    with pytest.raises(RuntimeError, match="No pretrained weights exist for nasnet_a_mobile"):
        small(pretrained=True)


def test_checkpointing_changes_no_answer_and_no_gradient():
    plain = calibrate(small(num_classes=7).double()).train()
    lean = copy.deepcopy(plain)
    lean.set_grad_checkpointing()
    for net in (plain, lean):
        net(images().double()).square().sum().backward()
    for (name, a), b in zip(plain.named_parameters(), lean.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name)
    lean.set_grad_checkpointing(False)
    torch.testing.assert_close(lean.eval()(images().double()), plain.eval()(images().double()))


def test_a_fused_copy_keeps_the_methods_and_the_answers(net):
    x, fused = images(), net.fuse()
    torch.testing.assert_close(fused(x), net(x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(fused.forward_features(x), net.forward_features(x), rtol=1e-4, atol=1e-4)
    fused.reset_classifier(0)
    assert fused(x).shape == (2, net.num_features)


def test_learning_rates_can_fall_with_depth():
    net = small()
    names = ["stem.0", *(f"cells.{name}" for name in net.cells), "classifier"]
    depth, stage = net.group_matcher(), net.group_matcher(coarse=True)
    assert [depth(f"{name}.weight") for name in names] == list(range(9))
    assert [stage(f"{name}.weight") for name in names] == [0, 0, 0, 1, 2, 2, 3, 3, 4]
    optimizer = create_optimizer_v2(net, opt="sgd", lr=1.0, layer_decay=0.5)
    scales = {
        name: group["lr_scale"]
        for group in optimizer.param_groups
        for name, parameter in net.named_parameters()
        if any(parameter is p for p in group["params"])
    }
    assert scales["classifier.weight"] == 1
    assert scales["stem.0.weight"] == pytest.approx(0.5**8)


def test_device_and_precision_are_taken_as_timm_takes_them():
    net = small(num_classes=7, device="meta", dtype=torch.bfloat16)
    assert {(p.device.type, p.dtype) for p in net.parameters()} == {("meta", torch.bfloat16)}
    net.reset_classifier(3)
    assert isinstance(net.classifier, nn.Linear)
    assert net.classifier.weight.is_meta
