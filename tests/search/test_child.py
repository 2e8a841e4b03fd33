"""Real children on real digits, as small as they can be."""

import dataclasses
import pickle
import sys
from functools import partial

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from toy_search import DIGITS, TINY

from backbones.genotype import Block, Cell, Genotype
from backbones.ranges import ConfigError
from backbones.spec import NetworkSpec
from classification.config import ImageDataConfig
from classification.data import open_images
from runtime.folder import plain
from search.children.attempt import attempt
from search.children.config import ChildConfig
from search.children.cost import predicted_cost
from search.children.evaluators import OpenTraining, evaluation
from search.children.images import ChildImages, split
from search.children.training import train_child
from search.messages import ChildTask, Failure, Proposal
from search.space import Space


def train(genotype, images, config, seed=1):
    evaluator = partial(train_child, images=images, config=config)
    return attempt(evaluator, ChildTask(Proposal(0, genotype, ()), seed=seed))


BLOCK = Block(0, 1, "conv_1x1", "identity")


def one_block(block=BLOCK):
    cell = Cell.with_unused_concat([block])
    return Genotype(cell, cell)


@pytest.fixture(scope="module")
def images():
    return ChildImages.open(DIGITS, TINY, seed=0)


def test_split_covers_the_training_files_once_and_keeps_the_classes_balanced():
    digits = open_images(ImageDataConfig(name="digits"), "train")
    training, validation = split(digits, ChildConfig(), seed=0)
    assert len(validation) == round(len(digits) / 10)
    assert sorted([*training, *validation]) == list(range(len(digits)))
    shares = np.bincount(digits.labels[validation]) / np.bincount(digits.labels)
    np.testing.assert_allclose(shares, 0.1, atol=0.01)


def test_children_train_on_as_many_images_as_asked(images):
    config = dataclasses.replace(TINY, training=80)
    some = ChildImages.open(DIGITS, config, seed=0)
    assert some.record["training"] == len(some.training) == 80
    assert len(some.images) == 80 + 40
    labels = some.images.labels[some.training]
    assert torch.bincount(labels).tolist() == pytest.approx([8] * 10, abs=1)
    held_out = [some.images.labels[some.validation], images.images.labels[images.validation]]
    assert torch.equal(*held_out)


def test_split_is_a_function_of_the_seed():
    digits = open_images(ImageDataConfig(name="digits"), "train")
    first, again, other = (split(digits, ChildConfig(), seed)[1].tolist() for seed in (0, 0, 1))
    assert first == again != other


def test_record_tells_one_split_from_another():
    first, again, other = (ChildImages.open(DIGITS, TINY, seed).record for seed in (0, 0, 1))
    assert first == again
    assert (first["training"], first["validation"]) == (160, 40)
    assert first["sha256"] != other["sha256"]


def test_a_search_of_its_own_children_trains_them_and_remembers_the_split(images):
    open_evaluator, cost, facts, chance = evaluation(None, DIGITS, TINY, seed=0)
    assert facts == {"split": images.record}
    assert chance == {"accuracy": pytest.approx(0.1, abs=0.03), "images": 40}
    assert cost(one_block()) == predicted_cost(one_block(), TINY, images=160, num_classes=10)
    opened = pickle.loads(pickle.dumps(open_evaluator))()
    result = attempt(opened, ChildTask(Proposal(0, one_block(), ()), seed=1))
    assert result.curve == train(one_block(), images, TINY).curve


def test_a_process_that_has_other_images_than_the_driver_opens_none(tmp_path):
    def draw(seed):
        for label in ("a", "b"):
            (tmp_path / "train" / label).mkdir(parents=True, exist_ok=True)
            for number in range(8):
                pixels = np.random.default_rng([seed, number]).integers(0, 256, (8, 8, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / "train" / label / f"{number}.png")

    draw(0)
    data = ImageDataConfig(name="imagefolder", root=str(tmp_path))
    driver = OpenTraining(data, dataclasses.replace(TINY, batch_size=2, validation=2, training=None), seed=0)
    driver()
    pickled = pickle.dumps(driver)
    assert pickle.loads(pickled)().images.record == driver().images.record
    draw(1)
    with pytest.raises(ConfigError, match=r"data\.root = .*: other images than the driver has \(pixels: "):
        pickle.loads(pickled)()


@pytest.mark.parametrize(
    "setting",
    [
        {"filters": 6},
        {"cells_per_stage": 2},
        {"lr": 0.1},
        {"batch_size": 20},
        {"momentum": 0.0},
        {"weight_decay": 1.0},
        {"clip_norm": 0.1},
        {"batch_norm_momentum": 0.9},
        {"precision": "bf16-mixed"},
    ],
)
def test_every_setting_of_training_matters(images, setting):
    usual = dataclasses.replace(TINY, epochs=4)
    changed = dataclasses.replace(usual, **setting)
    assert train(one_block(), images, changed).curve != train(one_block(), images, usual).curve


def test_learning_rate_falls_over_all_epochs(images):
    """So that a longer run differs from its first epoch on."""
    longer = dataclasses.replace(TINY, epochs=2 * TINY.epochs)
    curve = train(one_block(), images, TINY).curve
    assert train(one_block(), images, longer).curve[: TINY.epochs] != curve


def test_training_images_are_augmented_and_the_reward_is_the_last_accuracy(images):
    shifted = ChildImages.open(dataclasses.replace(DIGITS, crop_padding=2), TINY, seed=0)
    config = dataclasses.replace(TINY, epochs=4)
    results = [train(one_block(), shifted, config, seed) for seed in range(1, 4)]
    assert results[0].curve != train(one_block(), images, config).curve
    assert any(max(result.curve) > result.curve[-1] for result in results)
    assert all(result.reward == result.curve[-1] for result in results)


def test_network_of_a_child_has_the_settings_and_a_stem_three_times_as_wide():
    config = dataclasses.replace(TINY, filters=5, image_size=16)
    assert config.spec(one_block()) == NetworkSpec(
        one_block(),
        1,
        5,
        stem="cifar",
        stem_filters=15,
        image_size=16,
        batch_norm_eps=1e-5,
        batch_norm_momentum=0.3,
    )


def test_child_learns_and_repeats_exactly(images):
    config = dataclasses.replace(TINY, epochs=12, lr=0.1)
    result = train(one_block(), images, config)
    assert result.curve[-1] == result.reward
    assert result.curve[-1] > 0.5  # ten classes
    assert len(result.curve) == 12
    assert result.seconds > 0
    assert sys.platform != "linux" or result.peak_bytes > 2**20
    again = train(one_block(), images, config)
    assert again.curve == result.curve


def test_chance_comes_from_the_task_alone(images):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = train(one_block(), images, TINY, seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert train(one_block(), images, TINY, seed=3).curve == first.curve
    assert train(one_block(), images, TINY, seed=4).curve != first.curve


def test_equal_functions_get_equal_rewards(images):
    swapped = one_block(Block(1, 0, "identity", "conv_1x1"))
    assert train(swapped, images, TINY).curve == train(one_block(), images, TINY).curve


def test_exploding_child_is_not_finite(images):
    config = dataclasses.replace(TINY, lr=1e30, clip_norm=None)
    result = train(one_block(), images, config)
    assert result.failure is Failure.NOT_FINITE
    assert "in epoch 0" in result.detail


def test_slow_child_times_out_and_says_where(images):
    result = train(one_block(), images, dataclasses.replace(TINY, timeout_seconds=1e-9))
    assert result.failure is Failure.TIMEOUT
    assert result.detail == "1e-09 s were over at epoch 0, step 0 of 4"


def test_hopeless_child_ends_early_and_its_accuracy_is_its_reward(images):
    whole = train(one_block(), images, dataclasses.replace(TINY, epochs=3))
    kept = train(one_block(), images, dataclasses.replace(TINY, epochs=3, stop_below={1: whole.curve[0]}))
    assert (kept.curve, kept.metrics) == (whole.curve, {"accuracy": whole.reward, "epochs": 3})
    ended = train(one_block(), images, dataclasses.replace(TINY, epochs=3, stop_below={1: 1.0}))
    assert (ended.reward, ended.curve) == (whole.curve[0], whole.curve[:1])
    assert ended.metrics == {"accuracy": whole.curve[0], "epochs": 1}


def test_epochs_that_end_a_child_are_read_back_from_a_stored_configuration():
    config = ChildConfig(epochs=3, stop_below={1: 0.25, 2: 0.5})
    assert ChildConfig(**yaml.safe_load(yaml.safe_dump(plain(config)))) == config


@pytest.mark.parametrize(
    "stop_below", [{0: 0.5}, {2: 0.5}, {1: 0.0}, {1: 1.5}, {"a": 0.5}, {"1" * 5000: 0.5}, {1: "b"}, 0.5]
)
def test_epochs_and_accuracies_that_would_end_a_child_are_checked(stop_below):
    with pytest.raises(
        ValueError,
        match=r"stop_below = .*, expected {epoch: accuracy} .* at least 1 and below epochs = 2",
    ):
        ChildConfig(epochs=2, stop_below=stop_below)


def microseconds(genotype, config, images):
    return predicted_cost(genotype, config, images).microseconds


def test_predicted_cost_grows_with_the_work():
    light, heavy = one_block(), one_block(Block(0, 1, "conv_1x1", "conv_3x3"))
    cost = microseconds(light, TINY, images=100)
    assert isinstance(cost, int)
    assert microseconds(light, TINY, images=200) == pytest.approx(2 * cost, rel=1e-3)
    longer = dataclasses.replace(TINY, epochs=2 * TINY.epochs)
    assert microseconds(light, longer, images=100) == pytest.approx(2 * cost, rel=1e-3)
    assert microseconds(heavy, TINY, images=100) > cost


def test_cell_that_never_reads_its_second_input_is_predicted_and_trained(images):
    genotype = one_block(Block(0, 0, "conv_1x1", "identity"))
    assert microseconds(genotype, TINY, images=100) > 0
    assert train(genotype, images, TINY).failure is None


@pytest.mark.slow
def test_every_operation_and_combination_trains(images):
    space = Space(blocks=2)
    for number in range(20):
        decisions = space.sample(0, number)
        result = train(space.decode(decisions), images, TINY)
        assert result.failure is None, result.detail


def test_test_files_are_never_opened(tmp_path):
    for name, value in (("dark", 40), ("light", 200)):
        for i in range(30):
            folder = tmp_path / "train" / name
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (value + i,) * 3).save(folder / f"{i}.png")
    data = ImageDataConfig(name="imagefolder", root=str(tmp_path), resident=True, crop_padding=0)
    config = dataclasses.replace(TINY, batch_size=10, validation=10, epochs=4)
    result = train(one_block(), ChildImages.open(data, config, seed=0), config)
    assert result.reward == 1.0


def test_folders_of_pictures_of_any_size_are_cropped_resized_and_normalised(tmp_path):
    """Left and right of the central square are red; within it the upper half is black, the lower white."""
    for name, (width, height) in (("wide", (90, 30)), ("square", (40, 40)), ("large", (300, 120))):
        picture = Image.new("RGB", (width, height), (255, 0, 0))
        left = (width - height) // 2
        picture.paste((0, 0, 0), (left, 0, left + height, height // 2))
        picture.paste((255, 255, 255), (left, height // 2, left + height, height))
        for i in range(10):
            folder = tmp_path / "train" / name
            folder.mkdir(parents=True, exist_ok=True)
            picture.save(folder / f"{i}.png")
    data = ImageDataConfig(name="imagefolder", root=str(tmp_path), mean=[0.5, 0.4, 0.3], std=[0.5, 0.2, 0.1])
    config = dataclasses.replace(TINY, image_size=10, batch_size=6, validation=6)
    images = ChildImages.open(data, config, seed=0)
    pixels, _ = images.images.batch(np.arange(30), epoch=0, seed=0, train=False)
    assert pixels.shape == (30, 3, 10, 10)
    for channel, (mean, std) in enumerate(zip(data.mean, data.std, strict=True)):
        # Resizing mixes the outermost columns with what is beside the square.
        dark, light = pixels[:, channel, :4, 1:-1], pixels[:, channel, 6:, 1:-1]
        assert torch.allclose(dark, torch.tensor(-mean / std), atol=0.05)
        assert torch.allclose(light, torch.tensor((1 - mean) / std), atol=0.05)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs = 0, must be at least 1"),
        ({"batch_size": 1}, "batch_size = 1"),
        ({"lr": 0.0}, "lr = 0.0"),
        ({"momentum": 1.0}, "momentum = 1.0"),
        ({"timeout_seconds": 0.0}, "timeout_seconds = 0.0"),
        ({"validation": 0}, "validation = 0"),
        ({"device": "foo"}, "device = 'foo', expected auto, cpu, cuda"),
    ],
)
def test_child_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        ChildConfig(**settings)


def test_data_set_too_small_for_a_batch_is_refused():
    with pytest.raises(
        ValueError, match=r"digits: 200 training images, of which 190 are held out and 10 are to train"
    ):
        ChildImages.open(DIGITS, dataclasses.replace(TINY, validation=190), seed=0)
