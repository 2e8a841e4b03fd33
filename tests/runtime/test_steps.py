"""How images become optimiser steps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backbones.ranges import ConfigError
from runtime.config import TrainerConfig
from runtime.loading import training_loader
from runtime.steps import StepPlan, scaled_rate

COUNTS = st.integers(1, 4)


def test_the_images_of_a_step_are_shared_out_evenly():
    plan = StepPlan(48, accumulate=2, trainer=TrainerConfig(devices=4, num_nodes=3))
    assert (plan.trainer.processes, plan.images_per_pass) == (12, 2)
    assert str(plan) == "48 images per step: 4 devices x 3 nodes x 2 accumulated batches of 2"
    with pytest.raises(ConfigError) as refusal:
        StepPlan(10, accumulate=5, trainer=TrainerConfig(devices=4))
    assert str(refusal.value) == (
        "recipe.batch_size = 10, must be a multiple of recipe.accumulate x trainer.devices x "
        "trainer.num_nodes = 5 x 4 x 1"
    )


def test_too_few_images_for_one_step_are_refused():
    StepPlan(4).check(4)
    with pytest.raises(ConfigError, match=r"^recipe\.batch_size = 4 exceeds the 3 training images$"):
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
