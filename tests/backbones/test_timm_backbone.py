"""Networks of timm behind the contract of `Backbone`."""

import logging
import subprocess
import sys

import pytest
import timm
import torch

from backbones import create, load, profile, save, timm_backbone
from backbones.base import training_forward
from backbones.build import build
from backbones.config import BackboneConfig
from backbones.timm_spec import TimmSpec
from backbones.zoo import read_spec, resolve_spec
from benchmarks.calibration import calibrate
from celltransfer import install_command

NETWORKS = ["test_resnet", "test_efficientnet", "test_convnext", "resnet18", "mobilenetv3_small_050"]


def images(side=64, channels=3):
    return torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(1))


def network(name="test_resnet", num_classes=5, **arguments):
    torch.manual_seed(0)
    return calibrate(create(f"timm/{name}", num_classes, image_size=64, **arguments)).eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_maps_are_those_of_timm_and_as_announced(name):
    net = network(name)
    assert net(images()).shape == (2, 5)
    assert training_forward(net)(images())[1] is None
    maps = net.features(images())
    assert [(info.name, info.stride) for info in net.feature_info] == [
        *(("c2", 4), ("c3", 8), ("c4", 16), ("c5", 32)),
    ]
    for info, (key, x) in zip(net.feature_info, maps.items(), strict=True):
        assert (info.name, info.channels) == (key, x.shape[1])
        assert x.shape[2:] == (64 // info.stride, 64 // info.stride)

    theirs = timm.create_model(name, features_only=True, feature_cls="getter", num_classes=5)
    levels = [theirs.feature_info.reduction().index(stride) for stride in (4, 8, 16, 32)]
    theirs.model.load_state_dict(net.body.state_dict(), strict=False)
    for x, level in zip(maps.values(), levels, strict=True):
        torch.testing.assert_close(x, theirs.eval()(images())[level])


@pytest.mark.parametrize("name", NETWORKS)
def test_without_the_classifier_every_parameter_gets_a_gradient_from_the_maps(name):
    net = network(name).train()
    before = net.eval().features(images())
    net.remove_classifier()
    after = net.features(images())
    for key, x in before.items():
        torch.testing.assert_close(after[key], x)
    sum(x.square().mean() for x in net.train().features(images()).values()).backward()
    assert [name for name, parameter in net.named_parameters() if parameter.grad is None] == []


def test_the_resnet_for_32_px_keeps_them_and_comes_back_from_its_file(tmp_path):
    net = calibrate(create("timm/resnet18_cifar", 10, channels=[4, 6, 8, 10])).eval()
    assert net.preprocessing.size == 32
    maps = net.features(images(32))
    assert {key: tuple(x.shape[1:]) for key, x in maps.items()} == {"c2": (8, 8, 8), "c3": (10, 4, 4)}
    save(net, tmp_path / "net.safetensors")
    assert torch.equal(load(tmp_path / "net.safetensors").eval()(images(32)), net(images(32)))
    with pytest.raises((ValueError, RuntimeError), match="pretrained"):
        timm.create_model("resnet18_cifar", pretrained=True)


def test_a_transformer_classifies_and_has_the_one_map_it_has():
    net = network("test_vit")
    assert net(images()).shape == (2, 5)
    assert {name: tuple(x.shape) for name, x in net.features(images()).items()} == {"c4": (2, 64, 4, 4)}


def test_preprocessing_is_what_timm_says_of_the_network():
    cfg = timm.get_pretrained_cfg("resnet50")
    ours = create("timm/resnet50", 2).preprocessing
    assert (ours.size, ours.mean, ours.std) == (cfg.input_size[-1], cfg.mean, cfg.std)
    assert (ours.crop, ours.interpolation) == (cfg.crop_pct, cfg.interpolation)
    cfg = timm.get_pretrained_cfg("test_resnet")
    grey = create("timm/test_resnet", 2, in_channels=1, image_size=40)
    assert grey.preprocessing.size == 40
    for ours, theirs in ((grey.preprocessing.mean, cfg.mean), (grey.preprocessing.std, cfg.std)):
        assert ours == (pytest.approx(sum(theirs) / 3),)
    assert grey(images(40, channels=1)).shape == (2, 2)


def test_what_timm_does_otherwise_in_evaluation_is_said_once(caplog, monkeypatch):
    config = timm.get_pretrained_cfg("test_resnet")
    monkeypatch.setattr(timm_backbone, "resolve_model_data_config", lambda body: data)
    timm_backbone.warn_once.cache_clear()
    data = {"input_size": (3, 64, 64), "mean": config.mean, "std": config.std, "crop_pct": 0.9}
    data |= {"interpolation": "hamming", "crop_mode": "squash"}
    for _ in range(2):
        assert create("timm/test_resnet", 2).preprocessing.interpolation == "bilinear"
    assert [record.getMessage() for record in caplog.records] == [
        "timm/test_resnet: timm resizes by 'hamming', which is not known here; bilinear is used",
        "timm/test_resnet: timm evaluates it by crop_mode = 'squash', which is not known here; the central "
        "square is used",
    ]


def test_a_network_without_its_classifier_is_not_stored(tmp_path):
    net = network()
    net.remove_classifier()
    with pytest.raises(ValueError, match=r"net\.safetensors: the network is no longer .* missing body\."):
        save(net, tmp_path / "net.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_file_alone_gives_the_network_back(tmp_path):
    net = network(stem_type="deep", batch_norm_momentum=0.2)
    net.classes = list("abcde")
    path = tmp_path / "backbone.safetensors"
    save(net, path, metrics={"top1": 0.5})
    again = load(path)
    assert torch.equal(again(images()), net(images()))
    assert (again.spec, again.classes, again.preprocessing) == (net.spec, net.classes, net.preprocessing)
    assert again.spec == TimmSpec("test_resnet", 64, batch_norm_momentum=0.2, arguments={"stem_type": "deep"})
    assert not again.training
    momenta = {m.momentum for m in again.modules() if isinstance(m, torch.nn.BatchNorm2d)}
    assert momenta == {0.2}


def test_paths_are_dropped_as_the_training_proceeds(caplog):
    with caplog.at_level(logging.INFO):
        net = create("timm/resnet18", 5, drop_path_keep=0.6, dropout=0.3, auxiliary=True)
    assert "No auxiliary head: networks of timm have none" in caplog.text
    last = net.body.layer4[1].drop_path
    rates = []
    for progress in (0.0, 0.5, 1.0):
        net.set_progress(progress)
        rates.append(last.drop_prob)
    assert rates == pytest.approx([0.0, 0.2, 0.4])
    assert net.body.drop_rate == 0.3


@pytest.mark.parametrize(
    ("network", "arguments", "message"),
    [
        ("timm/resnet19", {}, "timm knows no network 'resnet19': did you mean resnet1"),
        ("timm/", {}, "timm = '', expected a name of timm"),
        ("timm/resnet18", {"filters": 8}, "timm/resnet18: .*'filters'"),
        ("timm/resnet18", {"norm_layer": torch.nn.Identity}, "norm_layer = .* cannot be written"),
        ("timm/resnet18", {"image_size": 0}, "image_size = 0, must be a whole number from 1 on"),
        ("timm/resnet18", {"batch_norm_momentum": 2}, r"batch_norm_momentum = 2, must be in \(0, 1\]"),
        ("timm/resnet18", {"num_classes": 0}, "num_classes = 0, must be at least 1"),
        ("timm/resnet18", {"drop_path_keep": 0.0}, r"drop_path_keep = 0.0, must be in \(0, 1\]"),
        ("timm/resnet18", {"in_chans": 1}, "in_chans = 1 is not taken .* give in_channels"),
        ("timm/resnet18", {"img_size": 64}, "img_size = 64 is not taken .* give image_size"),
        ("timm/resnet18", {"bn_momentum": 0.1}, "bn_momentum = 0.1 is not .* give batch_norm_momentum"),
        ("timm/resnet18", {"drop_rate": 0.5}, "drop_rate = 0.5 is not taken .* give dropout"),
        ("timm/resnet18", {"drop_path_rate": 0.5}, "drop_path_rate = 0.5 is .* give drop_path_keep, 1 minus"),
        ("timm/resnet18", {"pretrained": True}, "pretrained = True is not taken .* into net.body"),
        ("timm/resnet18", {"checkpoint_path": "a"}, "checkpoint_path = 'a' is not taken .* into net.body"),
        ("timm/resnet18", {"features_only": True}, "features_only = True is not .* net.features gives"),
        ("timm/resnet18", {"out_indices": [1]}, r"out_indices = \[1\] is not .* net.features gives"),
        (TimmSpec("resnet18"), {"arguments": {"num_classes": 5}}, "num_classes = 5 .* of create, not of the"),
    ],
)
def test_mistakes_are_named(network, arguments, message):
    with pytest.raises(ValueError, match=message):
        create(network, **arguments)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (
            {"timm": "resnet18", "depth": 3},
            "x: network.depth is unknown, expected timm, image_size",
        ),
        ({"timm": 5}, "x: network.timm = 5, expected str"),
        ({"timm": "resnet18", "arguments": [1]}, r"x: network.arguments = \[1\], expected object"),
        ({"stem": "cifar"}, "x: network.genotype is missing"),
        (None, "x: network = None, expected object"),
    ],
)
def test_mistakes_in_a_file_are_named(network, message):
    with pytest.raises(ValueError, match=message):
        read_spec(network, "x: network")


def test_specs_survive_the_way_through_a_file():
    for name in ("timm/resnet18", "nasnet_a_mobile"):
        spec = resolve_spec(name, image_size=32)
        assert read_spec(spec.to_dict()) == spec


def test_a_missing_timm_says_how_to_install_it(tmp_path):
    path = tmp_path / "backbone.safetensors"
    save(network(), path)
    code = f"""
import sys
sys.modules["timm"] = None
from backbones import create, load
for attempt in (create, lambda name: load({str(path)!r})):
    try:
        attempt("timm/resnet18")
    except ModuleNotFoundError as error:
        print(error)
"""
    messages = subprocess.check_output([sys.executable, "-c", code], text=True).splitlines()
    assert len(messages) == 2
    for message in messages:
        assert message.startswith("a network of timm needs timm, which is not installed (")
        assert message.endswith(install_command("timm"))


def test_a_configuration_builds_a_network_of_timm():
    config = BackboneConfig(name="timm/test_resnet", image_size=48, batch_norm_momentum=0.3)
    net = build(config.spec(), 4, drop_path_keep=0.9)
    assert (net.num_classes, net.preprocessing.size, net.drop_path_keep) == (4, 48, 0.9)
    with pytest.raises(ValueError, match="cells_per_stage"):
        build(BackboneConfig(name="timm/test_resnet", cells_per_stage=2).spec(), 4)


def test_costs_are_those_that_are_published():
    """He et al. (1512.03385): ResNet-50; 25.6 M parameters and 4.1 billion multiply-adds in public tables."""
    costs = profile(create("timm/resnet50"))
    assert (costs.image_size, costs.parameters) == (224, 25_557_032)
    assert costs.multiply_adds == pytest.approx(4.09e9, rel=2e-3)
    assert costs == profile(TimmSpec("resnet50"))
    larger = profile(TimmSpec("resnet50"), image_size=448)
    assert larger.multiply_adds / costs.multiply_adds == pytest.approx(4, rel=2e-3)
