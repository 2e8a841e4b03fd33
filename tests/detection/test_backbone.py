"""The backbone in a detector: where it comes from, what of it is frozen, what is refused."""

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from backbones import weights
from backbones.factory import create
from backbones.genotype import Block, Cell, Genotype
from detection.data.images import open_split
from detection.detector import Detector
from detection.evaluation.run import predict_all
from detection.evaluation.scoring import METRICS, evaluate
from detection.model.norms import FrozenStatistics, freeze_statistics
from detection.model.stages import check_halves
from detection.train import run as train
from detection.training.config import BackboneSource


def test_pretrained_statistics_are_frozen_and_fresh_ones_are_not(
    trained, small_config, backbone_file, scenes, tmp_path
):
    source = weights.load(backbone_file).state_dict()
    tensors = load_file(trained[0] / "detector.safetensors")
    name = "cells.cell_0.blocks"
    means = [key for key in tensors if key.endswith("running_mean") and name in key]
    assert means
    assert all(torch.equal(tensors[key], source[key.removeprefix("backbone.")]) for key in means)

    config = small_config(tmp_path / "scratch", backbone_file, scenes, steps=1)
    config.backbone = BackboneSource(weights=str(backbone_file), from_scratch=True)
    train(config)
    fresh = load_file(tmp_path / "scratch" / "detector.safetensors")
    assert not any(torch.equal(fresh[key], source[key.removeprefix("backbone.")]) for key in means)


def test_a_control_from_scratch_may_have_a_momentum_of_its_own_and_a_slow_one_is_warned_of(
    small_config, backbone_file, scenes, tmp_path, caplog
):
    means = {}
    for name, momentum in (("slow", None), ("fast", 0.9)):
        caplog.clear()
        config = small_config(tmp_path / name, backbone_file, scenes, steps=2)
        config.backbone = BackboneSource(
            weights=str(backbone_file), from_scratch=True, batch_norm_momentum=momentum
        )
        train(config)
        warned = "after 2 batches the statistics that evaluation uses are still 100 %" in caplog.text
        assert warned == (momentum is None)
        means[name] = load_file(tmp_path / name / "detector.safetensors")["backbone.stem.1.running_mean"]
    # Of weights that start alike: 0.0003 leaves 0.9997^2 of the start, 0.9 leaves 0.01 of it.
    assert means["fast"].abs().sum() > 100 * means["slow"].abs().sum() > 0


@pytest.mark.parametrize("name", ["timm/test_resnet", "timm/test_efficientnet"])
def test_a_network_of_timm_becomes_a_detector(name, small_config, scenes, tmp_path):
    """The second has its activations inside its batch norms."""
    pytest.importorskip("timm")
    network = create(name, 10, image_size=64)
    network(torch.randn(8, 3, 64, 64))  # moves the running statistics
    weights.save(network, tmp_path / "backbone.safetensors", classes=[str(digit) for digit in range(10)])
    result = train(small_config(tmp_path / "run", tmp_path / "backbone.safetensors", scenes))
    assert list(result["metrics"]) == [name for name in METRICS if name not in result["undefined"]]

    tensors = load_file(tmp_path / "run" / "detector.safetensors")
    for norm, value in network.state_dict().items():
        if "running_mean" in norm and f"backbone.{norm}" in tensors:  # the classifier's layers are gone
            assert torch.equal(tensors[f"backbone.{norm}"], value)
    stem = next(name for name in network.state_dict() if name.endswith("conv1.weight") or "conv_stem" in name)
    assert not torch.equal(tensors[f"backbone.{stem}"], network.state_dict()[stem])
    detector = Detector.load(tmp_path / "run" / "detector.safetensors", device="cpu")
    assert detector.engine.backbone.spec.timm == name.removeprefix("timm/")
    found = detector([Image.open(next((Path(scenes.root) / "val").glob("*.png")))])
    assert found[0]["boxes"].shape[1] == 4


def test_a_network_without_a_pyramid_is_refused_by_name(small_config, scenes, tmp_path):
    pytest.importorskip("timm")
    weights.save(create("timm/test_vit", 10), tmp_path / "backbone.safetensors")
    with pytest.raises(ValueError, match="backbone has 16: choose another network of timm than test_vit"):
        train(small_config(tmp_path / "run", tmp_path / "backbone.safetensors", scenes))
    assert not (tmp_path / "run").exists()


def test_frozen_statistics_normalise_as_evaluation_does():
    plain_norm = torch.nn.BatchNorm2d(3)
    plain_norm.load_state_dict(
        {name: torch.rand_like(v.float()) + 0.5 for name, v in plain_norm.state_dict().items()}
    )
    frozen = freeze_statistics(torch.nn.Sequential(copy.deepcopy(plain_norm)))[0]
    assert isinstance(frozen, FrozenStatistics)
    x = torch.rand(2, 3, 4, 4)
    torch.testing.assert_close(frozen.train()(x), plain_norm.eval()(x))
    for name, value in plain_norm.state_dict().items():
        assert torch.equal(frozen.state_dict()[name], value)


def test_the_cifar_stem_is_refused_in_one_sentence_before_anything_is_written(small_config, scenes, tmp_path):
    path = tmp_path / "backbone.safetensors"
    weights.save(create("nasnet_a_cifar", 10, cells_per_stage=1, filters=4, stem_filters=4), path)
    with pytest.raises(
        ValueError, match=r"backbone\.safetensors has the cifar stem.*train the classifier with the"
    ):
        train(small_config(tmp_path / "run", path, scenes))
    assert not (tmp_path / "run").exists()


def test_a_genotype_without_a_map_at_stride_4_is_refused_for_what_it_is(small_config, scenes, tmp_path):
    normal = Cell.with_unused_concat([Block(0, 0, "sep_conv_3x3", "identity")])
    reduction = Cell.with_unused_concat([Block(1, 1, "sep_conv_3x3", "max_pool_3x3")])
    Genotype(normal, reduction).save(tmp_path / "genotype.json")
    config = small_config(tmp_path / "run", tmp_path, scenes)
    config.backbone = BackboneSource(name=str(tmp_path / "genotype.json"), cells_per_stage=1, filters=8)
    with pytest.raises(
        ValueError, match="this genotype's cells leave no map at stride 4; choose another child"
    ):
        train(config)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"filters": 8}, "filters belongs to name, which is not set"),
        ({"weights": "a", "name": "b"}, "give one"),
        ({"weights": "a", "filters": 8}, "filters belongs to name"),
        ({"weights": "a", "batch_norm_momentum": 0.1}, "batch_norm_momentum belongs to"),
        ({"weights": "a", "from_scratch": True, "filters": 8}, "filters belongs to name"),
        ({"name": "nasnet_a_mobile", "from_scratch": True}, "from_scratch needs weights"),
        ({"name": "nasnet_a_mobile", "freeze_at": 2}, "freeze_at = 2 needs loaded weights"),
        (
            {"weights": "a", "from_scratch": True, "freeze_at": 2},
            "freeze_at = 2 needs loaded weights",
        ),
        ({"weights": "a", "freeze_at": 6}, "freeze_at = 6, must be in 0..5"),
    ],
)
def test_contradicting_backbone_keys_are_refused(keys, message):
    with pytest.raises(ValueError, match=message):
        BackboneSource(**keys)


def reached(network, level):
    """Names of the parameters that get a gradient from the maps up to c<level>."""
    network = copy.deepcopy(network).train().requires_grad_(True)
    maps = network.features(torch.randn(2, 3, 96, 64))
    sum(maps[f"c{n}"].square().sum() for n in range(2, level + 1)).backward()
    return {name for name, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", ["nasnet_a_mobile", "timm/test_resnet"])
def test_stages_are_frozen_with_their_statistics(name, small_config, scenes, tmp_path):
    if name.startswith("timm"):
        pytest.importorskip("timm")
        network = create(name, 10, image_size=64)
    else:
        network = create(name, 10, cells_per_stage=1, filters=8, stem_filters=4, image_size=64)
    weights.save(network, tmp_path / "backbone.safetensors", classes=[str(digit) for digit in range(10)])
    config = small_config(tmp_path / "run", tmp_path / "backbone.safetensors", scenes, steps=2, norm="batch")
    config.backbone = dataclasses.replace(config.backbone, freeze_at=2)
    train(config)

    network.remove_classifier()
    frozen = reached(network, 2)
    assert frozen < reached(network, 5)
    before, after = network.state_dict(), load_file(tmp_path / "run" / "detector.safetensors")
    same = {key for key, value in before.items() if torch.equal(after[f"backbone.{key}"], value)}
    means = {key for key in before if key.endswith("running_mean")}
    stay = {key for key in means if key.replace("running_mean", "weight") in frozen}
    assert frozen | stay <= same
    assert stay
    assert means - stay
    assert not (means - stay) & same
    content = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    (optimizer,) = content["optimizer_states"]
    trained = len(list(Detector.load(tmp_path / "run" / "detector.safetensors", "cpu").engine.parameters()))
    assert len(optimizer["state"]) == trained - len(frozen)


def test_a_stage_before_the_first_map_cannot_be_frozen(small_config, backbone_file, scenes, tmp_path):
    config = small_config(tmp_path / "run", backbone_file, scenes)
    config.backbone = dataclasses.replace(config.backbone, freeze_at=1)
    with pytest.raises(ValueError, match=r"backbone\.freeze_at = 1, but the first map of this network is c2"):
        train(config)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "timm/inception_v3",
            "timm/inception_v3: of an image of 128x192 px its map c2 is 192 channels of 28x44, but its "
            "feature_info says 192 channels of 32x48, stride 4",
        ),
        (
            "timm/swinv2_cr_tiny_224",
            "timm/swinv2_cr_tiny_224 takes no images of 128x192 px, but detection gives",
        ),
    ],
)
def test_a_foreign_network_whose_maps_are_not_what_it_says_is_explained(
    name, message, small_config, scenes, tmp_path
):
    pytest.importorskip("timm")
    config = small_config(tmp_path / "run", tmp_path, scenes)
    config.backbone = BackboneSource(name=name)
    with pytest.raises(ValueError, match=message):
        train(config)
    assert not (tmp_path / "run").exists()


def test_group_norm_is_trained_from_scratch_and_comes_back_from_the_file(
    small_config, backbone_file, scenes, tmp_path
):
    config = small_config(tmp_path, backbone_file, scenes, steps=1)
    recipe = dataclasses.replace(config.recipe, norm="group")
    with pytest.raises(
        ValueError, match=r"recipe\.norm = group needs fresh weights; those of .* were trained"
    ):
        dataclasses.replace(config, recipe=recipe)
    fresh = dataclasses.replace(config.backbone, from_scratch=True)
    metrics = train(dataclasses.replace(config, recipe=recipe, backbone=fresh))["metrics"]
    assert not any("running" in key for key in load_file(tmp_path / "detector.safetensors"))
    detector = Detector.load(tmp_path / "detector.safetensors", "cpu")
    norms = [m for m in detector.engine.backbone.modules() if isinstance(m, torch.nn.GroupNorm)]
    assert norms
    assert all(norm.num_channels // norm.num_groups >= 4 or norm.num_groups == 1 for norm in norms)
    results = predict_all(detector, detector.prepare(open_split(scenes, "val")), 0)
    assert evaluate(open_split(scenes, "val").coco, results).metrics == metrics
    assert detector.engine.for_inference().backbone.stem[1].__class__ is torch.nn.GroupNorm


@pytest.mark.parametrize("keys", [{"weights": "a", "from_scratch": True}, {"name": "nasnet_a_mobile"}])
def test_stored_statistics_of_fresh_weights_are_refused(keys, small_config, scenes, tmp_path):
    loaded = small_config(tmp_path, tmp_path / "a", scenes, norm="frozen")
    with pytest.raises(ValueError, match=r"recipe\.norm = frozen needs loaded weights; \w+ starts fresh"):
        dataclasses.replace(loaded, backbone=BackboneSource(**keys))


def test_the_halves_of_a_network_round_up_or_are_refused(monkeypatch):
    network = create("nasnet_a_mobile", 10, cells_per_stage=1, filters=8, stem_filters=4, image_size=64)
    network.remove_classifier()
    check_halves(network, "network", 16)

    split = network.split(16)
    trunk, tail = split.trunk, split.tail
    monkeypatch.setattr(network, "split", lambda stride: split)
    split.trunk = lambda images: trunk(images)[..., :-1, :]
    with pytest.raises(ValueError, match=r"map at stride 16 is \d+ channels of 6x10, expected .* of 7x10"):
        check_halves(network, "network", 16)
    split.trunk, split.tail = trunk, lambda crops: tail(crops)[..., :-1]
    with pytest.raises(ValueError, match=r"map at stride 32 is \d+ channels of 4x4, expected .* of 4x5"):
        check_halves(network, "network", 16)


def test_group_norm_is_refused_where_the_norm_does_more(small_config, scenes, tmp_path):
    pytest.importorskip("timm")
    config = small_config(tmp_path / "run", tmp_path, scenes, norm="batch")
    config.backbone = BackboneSource(name="timm/test_efficientnet")
    config.recipe = dataclasses.replace(config.recipe, norm="group")
    with pytest.raises(
        ValueError, match="norm = group would lose what BatchNormAct2d does besides normalising"
    ):
        train(config)
