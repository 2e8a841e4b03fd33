"""Detectron2's parts as an engine of ours."""

import copy

import pytest
import torch

from backbones.factory import create
from detection.engines.config import ENGINES, Detectron2C4Config, Detectron2FpnConfig
from detection.engines.renaming import TORCHVISION_AND_DETECTRON2, rename, reverse
from detection.model.config import BoxHeadConfig, C4HeadConfig, RpnConfig
from tests.detection.test_engines import (
    NUM_CLASSES,
    EngineContract,
    backbone,
    images,
    normalised,
    same,
    targets,
)

pytest.importorskip("detectron2", reason="needs Detectron2: run make detectron2")

import detection.engines.detectron2 as nasnet

pytestmark = pytest.mark.filterwarnings("ignore:torch.meshgrid")  # Detectron2's

COUNTS = {"pre_nms_train": 50, "pre_nms_test": 50, "post_nms_train": 40, "post_nms_test": 30}


def fpn_config(**keys) -> Detectron2FpnConfig:
    rpn = RpnConfig(anchor_sizes=[8, 16, 32, 64, 128], batch_size_per_image=64, **COUNTS)
    head = BoxHeadConfig(width=16, batch_size_per_image=16, pooled_size=3, score_threshold=0.0)
    return Detectron2FpnConfig(**{"fpn_channels": 8, "rpn": rpn, "box_head": head} | keys)


def c4_config(**keys) -> Detectron2C4Config:
    rpn = RpnConfig(anchor_sizes=[8, 16, 32, 64], batch_size_per_image=64, box_loss_weight=2.0, **COUNTS)
    head = C4HeadConfig(crop_size=5, batch_size_per_image=16)
    return Detectron2C4Config(**{"rpn_channels": 16, "rpn": rpn, "box_head": head} | keys)


def build(config, network=None):
    torch.manual_seed(0)
    return config.build(network or backbone(), NUM_CLASSES)


def seeded_targets(first: int):
    return [{**target, "seed": first + place} for place, target in enumerate(targets())]


def without_ties(head, given, output):
    """Rounded scores tie, and Detectron2 orders those as they come."""
    logits, deltas = output
    draws = torch.Generator().manual_seed(0)
    tilts = (torch.rand(level.shape, generator=draws) for level in logits)
    return [level.float() + 1e-3 * tilt for level, tilt in zip(logits, tilts, strict=True)], deltas


class Detectron2Contract(EngineContract):
    """What both kinds of detector have in common with Detectron2's parts."""

    def test_the_seeds_of_the_targets_alone_decide_what_is_drawn(self, engine):
        engine.train()
        once = engine.losses(images(), seeded_targets(5))
        before = torch.get_rng_state()
        assert engine.losses(images(), seeded_targets(5)) == once
        assert torch.equal(torch.get_rng_state(), before)
        assert engine.losses(images(), seeded_targets(6)) != once

    def test_a_copy_made_after_a_step_is_an_engine_of_its_own(self, engine):
        """The averaged weights and the copy for inference are made like this."""
        engine.train().losses(images(), seeded_targets(5))
        other = copy.deepcopy(engine).eval()
        with torch.inference_mode():
            before = engine.eval().predict(images())
            for parameter in engine.parameters():
                parameter.zero_()
            assert same(before, other.predict(images()))
            assert float(engine.predict(images())[0]["scores"].std()) == 0

    def test_half_precision_leaves_the_boxes_their_pixels(self, engine, config):
        """Detectron2 alone rounds the boxes as it does the maps: 1,001 px become 1,000."""
        other = ENGINES[config.name.replace("detectron2", "torchvision")]
        keys = {key: value for key, value in vars(config).items() if key != "name"}
        reference = build(other(**keys))
        with torch.no_grad():
            engine.roi_heads.box_predictor.cls_score.weight.mul_(100)  # scores that tell crops apart
        names = reverse(TORCHVISION_AND_DETECTRON2[config.head])
        reference.load_state_dict(rename(engine.state_dict(), names))
        for head in (engine.proposal_generator.rpn_head, reference.rpn.head):
            head.register_forward_hook(without_ties)
        picture = torch.rand(3, 64, 1100)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            (ours,), (theirs,) = (one.eval().predict([picture]) for one in (engine, reference))
        for key, values in ours.items():
            torch.testing.assert_close(values, theirs[key], rtol=1e-3, atol=1e-3)

    @pytest.mark.parametrize("key", ["rpn.iou_low", "box_head.iou_threshold"])
    def test_an_overlap_of_0_is_refused_as_detectron2_takes_none(self, config, key):
        part, name = key.split(".")
        changed = copy.deepcopy(getattr(config, part))
        setattr(changed, name, 0.0)
        with pytest.raises(ValueError, match=rf"^{key} = 0\.0, Detectron2 needs it above 0$"):
            type(config)(**{part: changed})

    def test_a_backbone_that_is_normalised_for_grey_is_refused(self, config):
        with pytest.raises(ValueError, match=r"preprocessing\.mean has 1 values, expected 3"):
            config.build(normalised([0.5], [0.5]), NUM_CLASSES)


class TestDetectron2Fpn(Detectron2Contract):
    @pytest.fixture
    def config(self):
        return fpn_config()

    def test_a_backbone_with_other_strides_is_refused(self, config):
        cifar = create("nasnet_a_cifar", cells_per_stage=1, filters=4, stem_filters=4)
        with pytest.raises(ValueError, match="this backbone has 1, 2, 4: train the classifier with"):
            build(config, cifar)

    def test_anchor_sizes_are_one_for_each_level(self):
        config = fpn_config(rpn=RpnConfig(anchor_sizes=[16, 32]))
        with pytest.raises(ValueError, match=r"expected 5 sizes, one per level .*4, 8, 16, 32, 64"):
            build(config)

    def test_plain_detectron2_takes_its_weights_and_gives_them_back(self, engine):
        tensors = engine.state_dict()
        plain = nasnet.plain_state(tensors)
        assert "backbone.bottom_up.network.stem.0.weight" in plain
        assert "backbone.fpn_lateral2.weight" in plain
        assert nasnet.engine_state(plain).keys() == tensors.keys()
        with pytest.raises(ValueError, match=r"unknown weight 'box_head\.fc1\.weight', expected backbone"):
            nasnet.plain_state({"box_head.fc1.weight": torch.zeros(1)})


class TestDetectron2C4(Detectron2Contract):
    @pytest.fixture
    def config(self):
        return c4_config()

    def test_its_chunks_do_not_change_what_it_finds(self, engine):
        with torch.inference_mode():
            whole = engine.eval().predict(images())
            engine.roi_heads.chunk = 7
            for one, other in zip(whole, engine.predict(images()), strict=True):
                torch.testing.assert_close(one["boxes"], other["boxes"], rtol=1e-4, atol=1e-4)

    def test_the_tail_belongs_to_the_backbone_alone(self, engine):
        names = [name for name, _ in engine.named_parameters()]
        assert not any(name.startswith("roi_heads.res5") for name in names)
        assert len(names) == len(set(names))
        assert list(engine.state_dict()) == list(dict.fromkeys(engine.state_dict()))
