"""Before training a classifier knows nothing: its first loss is near that of a guess, ln K."""

import math

import pytest
import torch
from torch.nn import functional

from backbones.build import build
from backbones.published import NASNET_A
from backbones.spec import NetworkSpec
from classification.config import ImageDataConfig, RecipeConfig
from classification.data import open_images
from classification.device_images import DeviceImages
from conf.compose import composed

SPECS = {
    "cifar": NetworkSpec(NASNET_A, 1, 8, stem="cifar", stem_filters=24, image_size=32),
    "imagenet": NetworkSpec(NASNET_A, 1, 8, stem_filters=16, image_size=96),
}


def first_losses(spec, classes, seeds, **options):
    """(main head's, auxiliary head's) mean loss over the seeds, on 32 real digits with labels by chance."""
    data = ImageDataConfig()
    images = DeviceImages.from_config(open_images(data, "train"), data, spec.image_size, torch.device("cpu"))
    pixels, _ = images.batch(range(32), epoch=0, seed=0, train=False)
    losses = torch.zeros(2)
    for seed in range(seeds):
        torch.manual_seed(seed)
        network = build(spec, classes, auxiliary=True, **options).train()
        labels = torch.randint(classes, (32,))
        with torch.no_grad():
            heads = network.forward_with_aux(pixels)
        losses += torch.tensor([functional.cross_entropy(logits, labels) for logits in heads])
    return (losses / seeds).tolist()


@pytest.mark.parametrize("classes", [2, *(pytest.param(k, marks=pytest.mark.slow) for k in (4, 10)), 1000])
@pytest.mark.parametrize("stem", SPECS)
def test_the_first_loss_of_both_heads_is_near_that_of_a_guess(stem, classes):
    for loss in first_losses(SPECS[stem], classes, seeds=10):
        assert loss == pytest.approx(math.log(classes), rel=0.2)


def test_tfs_rule_starts_few_classes_far_too_wide():
    main, auxiliary = first_losses(SPECS["cifar"], 4, seeds=3, head_init="fan_out")
    assert min(main, auxiliary) > 2 * math.log(4)


def test_the_rule_is_tfs_in_the_papers_tables_alone():
    for name, expected in (("table1_nasnet_a_6x768", "fan_out"), ("cifar10_small_nasnet", "fan_in")):
        assert composed("classification", f"experiment={name}", "run_dir=r").recipe.head_init == expected
    assert RecipeConfig().head_init == "fan_in"
