"""How images become optimiser steps."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backbones.ranges import ConfigError
from classification.config import RecipeConfig
from runtime.config import TrainerConfig
from runtime.loading import training_loader
from runtime.steps import StepPlan, log_rate, scaled_rate

COUNTS = st.integers(1, 4)


def test_the_images_of_a_step_are_shared_out_evenly():
    plan = StepPlan(48, accumulate=2, trainer=TrainerConfig(devices=4, num_nodes=3))
    assert (plan.trainer.processes, plan.images_per_pass) == (12, 2)
    assert str(plan) == "48 images per step: 4 devices x 3 nodes x 2 accumulated batches of 2"
    assert str(StepPlan(1)) == "1 image per step"
    assert str(StepPlan(4, 2)) == "4 images per step: 1 device x 1 node x 2 accumulated batches of 2"
    with pytest.raises(ConfigError) as refusal:
        StepPlan(10, accumulate=5, trainer=TrainerConfig(devices=4))
    assert str(refusal.value) == (
        "recipe.batch_size = 10, must be a multiple of recipe.accumulate x trainer.devices x "
        "trainer.num_nodes = 5 x 4 x 1"
    )


def test_too_few_images_for_one_step_are_refused():
    StepPlan(4).check(4)
    with pytest.raises(
        ConfigError,
        match=r"^recipe\.batch_size = 4 exceeds the 3 training images; set for example recipe\.batch_size=1$",
    ):
        StepPlan(4).steps_per_epoch(3)


@given(COUNTS, COUNTS, COUNTS, st.integers(0, 40))
def test_the_steps_of_an_epoch_are_those_of_every_process_loader(images_per_pass, accumulate, devices, more):
    plan = StepPlan(images_per_pass * accumulate * devices, accumulate, TrainerConfig(devices=devices))
    images = plan.batch_size + more
    for rank in range(devices):
        loader = training_loader([None] * images, plan, seed=0, rank=rank)
        assert len(loader) == plan.steps_per_epoch(images) * accumulate
        assert loader.batch_size == images_per_pass


def test_the_rate_follows_the_images_of_a_step():
    assert scaled_rate(0.1, 64, 256) == 0.025
    assert scaled_rate(0.1, 96, None) == 0.1  # exactly
    assert scaled_rate(0.1, 64, 256, power=0.5) == 0.05
    assert RecipeConfig(lr=0.1, batch_size=64, reference_batch_size=256).scaled_lr == 0.025
    adam = RecipeConfig(optimizer="adamw", lr=0.1, batch_size=64, reference_batch_size=256)
    assert adam.scaled_lr == 0.05


@pytest.mark.parametrize(
    ("batch", "optimizer", "said"),
    [
        (256, "sgd", None),
        (64, "sgd", "INFO learning rate 0.025 for 64 images per step"),
        (1024, "sgd", "INFO learning rate 0.4 for 1024 images per step"),
        (32, "sgd", "WARNING The learning rate is 0.0125, 8 times lower than recipe.lr = 0.1: "),
        (4096, "sgd", "WARNING The learning rate is 1.6, 16 times higher than recipe.lr = 0.1: "),
        (32, "adamw", "INFO learning rate 0.03536 for 32 images per step"),
        (4, "adamw", "WARNING The learning rate is 0.0125, 8 times lower than recipe.lr = 0.1: "),
    ],
)
def test_a_rate_scaled_by_more_than_4_is_a_warning_with_the_value_to_set(batch, optimizer, said, caplog):
    recipe = RecipeConfig(lr=0.1, batch_size=batch, reference_batch_size=256, optimizer=optimizer)
    with caplog.at_level(logging.INFO):
        log_rate(recipe.lr, recipe.scaled_lr, batch, 256)
    lines = [f"{record.levelname} {record.getMessage()}" for record in caplog.records]
    assert len(lines) == (said is not None)
    if lines:
        assert lines[0].startswith(said)
        remedy = "to train at 0.1 set recipe.reference_batch_size=null"
        assert lines[0].endswith(remedy) == ("WARNING" in said)
