"""A network from elsewhere as a detector's backbone: what it must have, and what it may leave out."""

import dataclasses
import logging
import re
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from torch import nn

from backbones.base import AuxiliaryLogits, Backbone, FeatureInfo, Fusible, ScheduledDropPath, Splittable
from backbones.factory import create
from backbones.spec import Preprocessing
from detection.engines.config import TorchvisionC4Config, TorchvisionFpnConfig
from detection.model.stages import check_maps, freeze_stages


@dataclass(frozen=True)
class TinySpec:
    widths: tuple[int, ...]
    in_channels: int = 3
    to_dict = dataclasses.asdict


def tiny(base: type[nn.Module]) -> nn.Module:
    """All that someone writes who brings a network of their own: four strided stages."""

    class Tiny(base):
        def __init__(self):
            super().__init__()
            self.spec = TinySpec((4, 8, 12, 16))
            self.preprocessing = Preprocessing(64)
            widths = (self.spec.in_channels, *self.spec.widths)
            self.stages = nn.ModuleList(
                nn.Sequential(nn.Conv2d(a, b, 4, 4 if a == 3 else 2, 0 if a == 3 else 1), nn.ReLU())
                for a, b in pairwise(widths)
            )
            self.feature_info = [FeatureInfo(f"c{i}", b, 2**i) for i, b in enumerate(self.spec.widths, 2)]

        def features(self, x):
            maps = {}
            for info, stage in zip(self.feature_info, self.stages, strict=True):
                x = maps[info.name] = stage(x)
            return maps

    return Tiny()


@pytest.fixture(params=[nn.Module, Backbone], ids=["a module", "a Backbone"])
def network(request):
    torch.manual_seed(0)
    return tiny(request.param)


def batch():
    generator = torch.Generator().manual_seed(1)
    images = [torch.rand(3, *size, generator=generator) for size in ((70, 101), (96, 64))]
    boxes = torch.tensor([[5.0, 6.0, 40.0, 60.0]])
    return images, [{"boxes": boxes, "labels": torch.tensor([1]), "seed": 3}] * 2


def test_a_detector_with_a_pyramid_trains_and_predicts_on_it(network):
    check_maps(network, "tiny")
    engine = TorchvisionFpnConfig(fpn_channels=8).build(network, 3)
    images, targets = batch()
    losses = engine.train().losses(images, targets)
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in engine.named_parameters():
        assert parameter.grad is not None, name
    engine.box_head.config.score_threshold = 0.0
    fast = engine.eval().for_inference()
    with torch.no_grad():
        for ours, theirs in zip(engine.predict(images), fast.predict(images), strict=True):
            assert len(ours["boxes"]) > 0
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)
    assert not any(parameter.requires_grad for parameter in fast.parameters())


def test_its_stages_can_be_frozen(network):
    freeze_stages(network, 3)
    trained = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    assert [name.split(".")[1] for name in trained] == ["2", "2", "3", "3"]


def test_a_detector_on_one_map_says_what_it_lacks(network):
    lack = "Tiny has no method `split` (backbones.base.Splittable), which a detector on one map needs: add it"
    with pytest.raises(ValueError, match=re.escape(lack)):
        TorchvisionC4Config().build(network, 3)


def test_a_backbone_that_cannot_be_fused_now_predicts_as_it_is(caplog):
    network = create("nasnet_a_mobile", cells_per_stage=1, filters=8, stem_filters=4, image_size=64)
    network.remove_classifier()
    network.stem[1] = nn.GroupNorm(1, 4)
    engine = TorchvisionFpnConfig(fpn_channels=8).build(network, 3)
    with caplog.at_level(logging.INFO):
        fast = engine.for_inference()
    assert "The backbone is not fused for inference: fuse folds batch norm with running" in caplog.text
    assert isinstance(fast.backbone.stem[1], nn.GroupNorm)


def test_our_networks_have_what_is_optional_and_a_foreign_one_need_not(network):
    capabilities = (Fusible, Splittable, ScheduledDropPath, AuxiliaryLogits)
    size = {"cells_per_stage": 1, "filters": 8, "stem_filters": 4}
    has = {
        name: [isinstance(one, capability) for capability in capabilities]
        for name, one in (
            ("cells", create("nasnet_a_mobile", **size)),
            ("timm", create("timm/test_resnet")),
            ("foreign", network),
        )
    }
    assert has == {"cells": [True] * 4, "timm": [True, True, True, False], "foreign": [False] * 4}
