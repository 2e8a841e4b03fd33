"""The recipe of a training: rate, schedule, batch."""

import pytest

from detection.training.recipe import DetectionRecipe
from detection.training.sizes import warn_of_few_steps
from runtime.steps import StepPlan


def test_the_rate_warms_up_and_falls_by_ten_at_the_milestones():
    recipe = DetectionRecipe(warmup_steps=10, milestones=[0.5, 0.75])
    assert [recipe.rate(step, 100) for step in (0, 5, 10, 49)] == pytest.approx([0.001, 0.5005, 1, 1])
    assert [recipe.rate(step, 100) for step in (50, 74, 75, 99)] == pytest.approx([0.1, 0.1, 0.01, 0.01])


def test_milestones_from_1_on_are_steps():
    recipe = DetectionRecipe(warmup_steps=0, milestones=[900_000, 1_200_000], steps=2_000_000)
    steps = (899_999, 900_000, 1_199_999, 1_200_000)
    assert [recipe.rate(step, 2_000_000) for step in steps] == pytest.approx([1, 0.1, 0.1, 0.01])


def test_the_rate_is_scaled_with_the_batch_and_at_the_reference_it_is_lr():
    assert DetectionRecipe(lr=0.02, reference_batch_size=16, batch_size=2).scaled_lr == pytest.approx(0.0025)
    assert DetectionRecipe(lr=0.02, reference_batch_size=16, batch_size=16).scaled_lr == 0.02
    assert DetectionRecipe(lr=0.02, batch_size=2).scaled_lr == 0.02


def test_epochs_count_whole_batches():
    recipe = DetectionRecipe(epochs=3, steps=None, batch_size=4)
    assert recipe.total_steps(StepPlan(4), 11) == 3 * 2
    assert DetectionRecipe(steps=5).total_steps(StepPlan(4), 11) == 5


@pytest.mark.parametrize(
    ("images", "steps", "cuda", "enough"),
    [
        (130, 194, False, 780),  # 12 passes on 2 images a step
        (130, 195, False, None),
        (10, 74, False, 300),
        (10, 75, False, None),
        (130, 780, True, 3900),  # 60 passes
        (118_287, 4500, True, None),
    ],
)
def test_a_quarter_of_the_steps_of_own_photos_is_taken_without_a_word(caplog, images, steps, cuda, enough):
    warn_of_few_steps(images, steps, 2, cuda=cuda)
    told = [f"recipe.steps={enough};" in message for message in caplog.messages]
    assert told == ([] if enough is None else [True])


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"momentum": 1.0}, r"momentum = 1\.0, must be in \[0, 1\)"),
        ({"ema_decay": 1.0}, r"ema_decay = 1\.0, must be in \[0, 1\)"),
        ({"accumulate": 0}, r"accumulate = 0, must be at least 1"),
        ({"batch_size": "large"}, r"batch_size = 'large', expected a number of images or auto"),
        ({"batch_size": 0}, r"batch_size = 0, must be at least 1"),
        ({"norm": "layer"}, r"norm = 'layer', expected one of auto, frozen, batch, group"),
        (
            {"milestones": [0.5, 100]},
            r"milestones = \[0\.5, 100\], must be rising shares .* or rising",
        ),
        ({"milestones": [1.5]}, r"milestones = \[1\.5\]"),
        ({"milestones": [0.8, 0.5]}, r"milestones = \[0\.8, 0\.5\]"),
        ({"patience": 0}, r"patience = 0, must be at least 1"),
    ],
)
def test_what_is_out_of_range_is_refused_with_its_key(keys, message):
    with pytest.raises(ValueError, match=message):
        DetectionRecipe(**keys)
