"""Training that starts from a trained detector: `init`, and `backbone.weights` of one."""

import dataclasses

import pytest
import torch

from backbones.ranges import ConfigError
from detection.data.coco_file import CategoryEntry
from detection.detector import Detector
from detection.train import run as train
from detection.training.build import build_backbone, build_detector
from detection.training.config import BackboneSource

NONE = BackboneSource()


@pytest.fixture
def started(trained, small_config, backbone_file, scenes, tmp_path):
    """A configuration whose detector starts from the trained one, and that file."""
    file = trained[0] / "detector.safetensors"
    config = small_config(tmp_path / "run", backbone_file, scenes, steps=1)
    return dataclasses.replace(config, backbone=NONE, init=str(file)), file


def built(config, names):
    categories = [CategoryEntry(5 + number, name) for number, name in enumerate(names)]
    size = config.data.evaluation_size
    parts = (config.start, config.detector, config.recipe, config.trainer, size, categories)
    return build_detector(*parts, config.init).engine.state_dict()


def test_rows_of_equal_names_are_kept_and_the_rest_is_fresh(started, caplog):
    config, file = started
    theirs = Detector.load(file, "cpu")
    old = theirs.engine.state_dict()
    with caplog.at_level("INFO"):
        new = built(config, ["moon", "7", "3"])
    assert caplog.messages == [
        f"starting from {file}: the weights of 2 of 3 classes are kept (7, 3), those of moon are fresh"
    ]
    names = [category.name for category in theirs.categories]
    seven, three = names.index("7"), names.index("3")
    for part in ("weight", "bias"):
        scores, before = new[f"box_head.class_logits.{part}"], old[f"box_head.class_logits.{part}"]
        assert torch.equal(scores[1:], before[[seven, three, len(names)]])
        assert not any(torch.equal(scores[0], row) for row in before)
        deltas = new[f"box_head.box_deltas.{part}"].unflatten(0, (-1, 4))
        assert torch.equal(
            deltas[1:], old[f"box_head.box_deltas.{part}"].unflatten(0, (-1, 4))[[seven, three]]
        )
    rest = [name for name in new if "class_logits" not in name and "box_deltas" not in name]
    assert len(rest) > 100
    assert all(torch.equal(new[name], old[name]) for name in rest)


def test_of_the_same_classes_everything_is_kept_and_training_goes_on_from_there(started, caplog):
    config, file = started
    theirs = Detector.load(file, "cpu")
    new = built(config, [category.name for category in theirs.categories])
    assert all(torch.equal(tensor, new[name]) for name, tensor in theirs.engine.state_dict().items())
    with caplog.at_level("INFO"):
        done = train(config)
    assert "backbone pretrained, its batch normalisation uses the stored statistics" in caplog.text
    assert done["steps"] == 1
    assert train(config) == done


def test_a_detector_of_other_sizes_is_refused_with_the_words_to_type(started):
    config, file = started
    detector = dataclasses.replace(config.detector, fpn_channels=16)
    detector.rpn = dataclasses.replace(detector.rpn, anchor_sizes=[8, 16, 32, 64, 128], nms_threshold=0.5)
    with pytest.raises(ConfigError) as error:
        built(dataclasses.replace(config, detector=detector), ["7"])
    assert str(error.value) == (
        f"init = {file} is of another detector; type its keys: detector.fpn_channels=8 "
        "'detector.rpn.anchor_sizes=[16,32,64,96,128]'"
    )


def test_backbone_weights_may_be_a_detectors(started):
    network = build_backbone(BackboneSource(weights=str(started[1]))).state_dict()
    theirs = Detector.load(started[1], "cpu").engine.backbone.state_dict()
    assert network.keys() == theirs.keys()
    assert all(torch.equal(tensor, network[name]) for name, tensor in theirs.items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init": None}, "give one, a backbone.safetensors or a network's name, or init=detector"),
        ({"backbone": BackboneSource(name="nasnet_a_mobile")}, "brings its network; leave out backbone.name"),
        ({"backbone": BackboneSource(weights="a")}, "brings its network; leave out backbone.weights"),
        ({"backbone": BackboneSource(from_scratch=True)}, "leave out backbone.from_scratch"),
    ],
)
def test_init_and_a_backbone_are_refused_together(changes, message, started):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(started[0], **changes)
