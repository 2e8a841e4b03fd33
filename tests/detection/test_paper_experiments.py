"""The experiment files of the paper's Table 4: what they say of themselves, and what they build."""

from functools import partial

import pytest
import torch

import conf.compose
from conf.app import refuse_foreign_experiment
from detection.training.build import build_backbone

EXPERIMENT = conf.EXPERIMENTS / "detection" / "experiment"
# docs/nasnet.md, sections 6 and 7: the zoo's name, pixels, proposals, channels of the map, the row's figures.
ROWS = {
    "table4_nasnet_a_mobile": ("nasnet_a_mobile", 600, 300, 1056, ("4 @ 1056", "29.6 %")),
    "table4_nasnet_a_large_800": ("nasnet_a_large", 800, 500, 4032, ("6 @ 4032", "41.3 %", "40.7 %")),
    "table4_nasnet_a_large_1200": ("nasnet_a_large", 1200, 500, 4032, ("6 @ 4032", "43.2 %", "43.1 %")),
}


composed = partial(conf.compose.composed, "detection", "run_dir=run")


def test_every_nasnet_row_of_the_table_has_a_file():
    assert {path.stem for path in EXPERIMENT.glob("table4*.yaml")} == set(ROWS)


@pytest.mark.parametrize("experiment", ROWS)
def test_a_file_starts_with_its_command_and_row(experiment):
    _, side, proposals, _, words = ROWS[experiment]
    first, second, *rest = (EXPERIMENT / f"{experiment}.yaml").read_text().splitlines()
    assert first == "# @package _global_"
    command, experiment_word, root, weights = second.removeprefix("# python -m ").split(" ")
    assert (command, experiment_word) == ("detection", f"experiment={experiment}")
    comment = " ".join(line.removeprefix("# ") for line in rest[: rest.index("defaults:")])
    assert comment.startswith(f"Table 4, NASNet-A ({words[0]}), {side}x{side} px")
    for word in (*words[1:], "--minival 8000"):
        assert word in comment

    config = composed(experiment_word, root, weights)
    assert config.backbone.weights == "backbone.safetensors"
    assert config.data.fixed_size == side
    assert config.data.train_annotations == "annotations/train.json"  # as detection.split names them
    assert config.data.val_annotations == "annotations/minival.json"
    assert config.detector.rpn.post_nms_test == proposals


@pytest.mark.parametrize("experiment", ["table4_nasnet_a_mobile", "table4_nasnet_a_large_1200"])
def test_the_detector_is_built_and_sees_its_images(experiment):
    name, side, _, channels, _ = ROWS[experiment]
    config = composed(f"experiment={experiment}", "data.root=COCO", f"backbone.name={name}")
    with torch.device("meta"):
        engine = config.detector.build(build_backbone(config.backbone), 80)
        (feature_map,), _ = engine.maps([torch.empty(3, side, side)])
        logits, deltas = engine.score([feature_map], [torch.empty(2, 4)])
    assert feature_map.shape[1] == channels
    assert (logits.shape, deltas.shape) == ((2, 81), (2, 80, 4))


@pytest.mark.parametrize("experiment", ROWS)
def test_the_numbers_are_those_of_the_public_configuration(experiment):
    """docs/nasnet.md, section 7; loss weights, thresholds and counts of `faster_rcnn_nas_coco.config`."""
    config = composed(f"experiment={experiment}", "data.root=COCO", "backbone.name=nasnet_a_mobile")
    recipe, rpn, head = config.recipe, config.detector.rpn, config.detector.box_head
    assert (recipe.momentum, recipe.clip_norm) == (0.9, 10.0)
    assert recipe.freezes_statistics(pretrained=True)
    for step, rate in ((0, 3e-4), (899_999, 3e-4), (900_000, 3e-5), (1_200_000, 3e-6)):
        assert recipe.scaled_lr * recipe.rate(step, recipe.steps) == pytest.approx(rate)
    assert (rpn.anchor_sizes, rpn.aspect_ratios) == ([64, 128, 256, 512], [0.5, 1.0, 2.0])
    assert config.detector.rpn_channels == 512
    assert (rpn.batch_size_per_image, rpn.positive_fraction, rpn.nms_threshold) == (256, 0.5, 0.7)
    assert (head.crop_size, head.batch_size_per_image, head.positive_fraction) == (17, 64, 0.25)
    assert (head.nms_threshold, head.score_threshold, head.detections_per_image) == (0.6, 0.0, 100)
    assert (rpn.box_loss_weight, head.box_loss_weight) == (2.0, 2.0)
    assert config.data.flip


def test_they_are_refused_by_the_other_commands_in_one_line():
    message = "experiment=table4_nasnet_a_mobile is one of python -m detection;"
    with pytest.raises(SystemExit, match=message):
        refuse_foreign_experiment("classification", ["experiment=table4_nasnet_a_mobile"])
