"""Evaluation of a weights file: the training's own figures again, the mistakes, what is refused."""

import json
import logging
import math

import numpy as np
import pytest
import torch
from genotypes import TWO_BLOCKS
from PIL import Image

from backbones import weights
from backbones.config import BackboneConfig
from backbones.factory import create
from classification.config import ClassificationConfig, EvaluateConfig, ImageDataConfig, RecipeConfig
from classification.data import open_images
from classification.evaluation import check_classes, log_mistakes, run
from classification.mistakes import (
    LOSSLESS,
    THUMBNAIL,
    WORST,
    Mistakes,
    data_uri,
    find_mistakes,
    picture,
    read_mistakes,
    write_mistakes,
)
from classification.predictions import Predictions
from classification.train import run as train
from runtime.config import LoggerConfig, TrainerConfig

DIGITS = ImageDataConfig(name="digits", train_limit=60, test_limit=50, flip=False, crop_padding=1)


def trained(run_dir, data, **trainer):
    """A small network after one epoch, evaluated in batches of 7."""
    config = ClassificationConfig(
        run_dir=str(run_dir),
        data=data,
        backbone=BackboneConfig(
            name=str(TWO_BLOCKS), stem="cifar", cells_per_stage=1, filters=4, stem_filters=4, image_size=16
        ),
        recipe=RecipeConfig(epochs=1, batch_size=10, lr=0.05),
        trainer=TrainerConfig(device="cpu", threads=1, checkpoint_seconds=None, **trainer),
        logger=LoggerConfig(name="none"),
        validate_every_epochs=None,
        eval_batch_size=7,
    )
    train(config)
    return run_dir / "backbone.safetensors"


def header(path):
    return weights.read_safetensors(path, "backbone")[1]


@pytest.fixture(scope="module")
def digits_file(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("digits"), DIGITS)


@pytest.mark.parametrize(
    "trainer", [{}, {"channels_last": False}, {"activation_memory": "lean"}, {"precision": "bf16-mixed"}]
)
def test_evaluation_reproduces_the_metrics_of_the_file_to_the_last_digit(tmp_path, trainer):
    path = trained(tmp_path, DIGITS, **trainer)
    content = run(EvaluateConfig(weights=str(path), data=DIGITS, device="cpu", threads=1))
    assert content["metrics"] == header(path)["metrics"]
    assert content["per_class"] == json.loads((tmp_path / "metrics.json").read_text())["per_class"]


def test_so_it_does_on_decoded_files_in_other_processes(tmp_path, digit_folders):
    data = ImageDataConfig(name="imagefolder", root=str(digit_folders), workers=0)
    path = trained(tmp_path, data)
    data.workers = 2
    content = run(EvaluateConfig(weights=str(path), data=data, device="cpu", threads=1))
    assert content["metrics"] == header(path)["metrics"]


@pytest.mark.parametrize("batch_size", [1, 50])
def test_another_batch_size_changes_no_accuracy_and_hardly_the_loss(digits_file, batch_size):
    content = run(EvaluateConfig(weights=str(digits_file), data=DIGITS, batch_size=batch_size, device="cpu"))
    stored = header(digits_file)["metrics"]
    assert content["metrics"]["loss"] == pytest.approx(stored["loss"], rel=1e-5)
    assert {**content["metrics"], "loss": 0} == {**stored, "loss": 0}


def test_metrics_are_those_of_the_formulas_in_any_order():
    generator = torch.Generator().manual_seed(0)
    logits = 5 * torch.randn(200, 7, generator=generator)
    labels = torch.randint(0, 6, (200,), generator=generator)  # none of class 6
    order = torch.randperm(200, generator=generator)
    straight = Predictions.join(7, [Predictions.of_batch(logits, labels)])
    parts = [Predictions.of_batch(logits[rows], labels[rows]) for rows in order.split(33)]
    assert Predictions.join(7, parts).metrics() == straight.metrics()
    ranks = [sorted(row, reverse=True).index(row[k]) for row, k in zip(logits.tolist(), labels, strict=True)]
    probabilities = logits.double().softmax(dim=1)
    assert straight.metrics() == {
        "top1": sum(rank == 0 for rank in ranks) / 200,
        "top5": sum(rank < 5 for rank in ranks) / 200,
        "loss": pytest.approx(-float(probabilities[range(200), labels].log().mean()), rel=1e-12),
    }
    assert straight.probability == pytest.approx(probabilities.max(dim=1).values.numpy())
    of_two = [rank == 0 for rank, label in zip(ranks, labels, strict=True) if label == 2]
    assert straight.per_class()[2] == sum(of_two) / len(of_two)
    assert straight.per_class()[6] is None


def toy(labels, predicted, loss=None):
    """Predictions on digits that say so."""
    count = len(labels)
    losses = np.zeros(count) if loss is None else np.array(loss, float)
    right = np.array(labels) == np.array(predicted)
    return Predictions(10, np.array(labels), np.array(predicted), right, losses, np.full(count, 0.5))


def test_confused_pairs_are_counted_and_ordered():
    images = open_images(DIGITS, "test").subset(range(6))
    mistakes = find_mistakes(toy([3, 3, 3, 8, 5, 5], [3, 8, 8, 3, 5, 6]), images)
    assert mistakes.confusion == [(3, 3, 1), (3, 8, 2), (5, 5, 1), (5, 6, 1), (8, 3, 1)]
    assert mistakes.pairs(2) == [(3, 8, 2, 2 / 3), (8, 3, 1, 1.0)]
    assert mistakes.matrix()[3] == [0, 0, 0, 1, 0, 0, 0, 0, 2, 0]
    assert sum(map(sum, mistakes.matrix())) == 6


def test_worst_images_are_those_of_the_highest_loss():
    images = open_images(DIGITS, "test")
    losses = np.arange(50) * 7 % 50 / 10
    worst = find_mistakes(toy(images.labels, [1] * 50, losses), images).worst
    assert [one.loss for one in worst] == sorted(losses, reverse=True)[:WORST]
    place = int(np.argmax(losses))
    assert worst[0].image == f"image {place}"
    assert (worst[0].label, worst[0].predicted, worst[0].probability) == (images.labels[place], 1, 0.5)
    assert worst[0].probability_of_label == math.exp(-4.9)
    assert picture(worst[0].data_uri).tobytes() == images.image(place).tobytes()  # small, so a PNG


def test_files_are_named_below_the_folder_of_their_split(digit_folders):
    images = open_images(ImageDataConfig(name="imagefolder", root=str(digit_folders)), "test").subset([0])
    prediction = Predictions(3, np.array([1]), np.array([1]), np.array([True]), np.zeros(1), np.ones(1))
    name = find_mistakes(prediction, images).worst[0].image
    assert (digit_folders / "test" / name).is_file()


def test_large_images_are_kept_small(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (600, 300, 3), dtype=np.uint8)
    uri = data_uri(Image.fromarray(noise), THUMBNAIL)
    assert uri.startswith("data:image/jpeg;base64,")
    assert picture(uri).size == (THUMBNAIL // 2, THUMBNAIL)
    assert THUMBNAIL > LOSSLESS


def test_a_training_leaves_mistakes_that_add_up_to_its_metrics(digits_file):
    metrics, mistakes = header(digits_file)["metrics"], read_mistakes(digits_file.parent / "mistakes.json")
    assert sum(images for _, _, images in mistakes.confusion) == 50
    assert sum(n for label, other, n in mistakes.confusion if label == other) / 50 == metrics["top1"]
    assert mistakes.classes == [str(digit) for digit in range(10)]
    assert len(mistakes.worst) == WORST


def test_evaluation_writes_what_the_training_wrote(tmp_path, digits_file):
    content = run(
        EvaluateConfig(weights=str(digits_file), data=DIGITS, device="cpu", threads=1, output=str(tmp_path))
    )
    assert (tmp_path / "mistakes.json").read_bytes() == (digits_file.parent / "mistakes.json").read_bytes()
    assert json.loads((tmp_path / "metrics.json").read_text()) == content


def test_wandb_takes_the_confusion_matrix_the_classes_and_the_worst_images(
    tmp_path, digits_file, monkeypatch
):
    monkeypatch.setenv("WANDB_MODE", "offline")
    logger = LoggerConfig(name="wandb")
    run(
        EvaluateConfig(
            weights=str(digits_file), data=DIGITS, device="cpu", output=str(tmp_path), logger=logger
        )
    )
    (media,) = tmp_path.glob("wandb/offline-run-*/files/media")
    tables = {path.name.split("_")[0]: json.loads(path.read_text()) for path in media.rglob("*.table.json")}
    assert set(tables) == {"confusion", "confused", "per"}
    mistakes = read_mistakes(tmp_path / "mistakes.json")
    counts = {(a, b): n for a, b, n in tables["confusion"]["data"] if n}
    assert counts == {(str(a), str(b)): n for a, b, n in mistakes.confusion}
    assert len(tables["confused"]["data"]) == len(mistakes.pairs(100))
    assert len(tables["per"]["data"]) == 10
    pictures = {Image.open(path).tobytes() for path in media.rglob("worst*.png")}
    assert pictures == {picture(one.data_uri).tobytes() for one in mistakes.worst}
    run_file = next(tmp_path.glob("wandb/offline-run-*/*.wandb")).read_bytes()
    one = mistakes.worst[0]
    assert f"{one.image}: {one.label} ({one.probability_of_label:.1%}), taken for".encode() in run_file


def test_the_matrix_of_many_classes_is_left_out_of_wandb(monkeypatch):
    taken = []
    monkeypatch.setattr("classification.evaluation.log_table", lambda _, name, *__: taken.append(name))
    monkeypatch.setattr("classification.evaluation.log_confusion", lambda *_: taken.append("matrix"))
    monkeypatch.setattr("classification.evaluation.log_images", lambda *_: None)
    names = [f"n{i:08d}" for i in range(1000)]
    log_mistakes([], Mistakes("imagenet", names, [(0, 1, 3)], []), [None] * 1000, "test")
    assert taken == ["test/confused", "test/per_class"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "mistakes.json: not JSON: Input data was truncated"),
        (b'{"source": "x"}', "mistakes.json: Object missing required field `classes`"),
        (
            b'{"source": "x", "classes": ["a"], "confusion": [[0, 1, 5]], "worst": []}',
            "mistakes.json: classes 0 and 1, expected 0..0",
        ),
    ],
)
def test_a_broken_file_of_mistakes_is_named(tmp_path, content, message):
    (tmp_path / "mistakes.json").write_bytes(content)
    with pytest.raises(ValueError) as error:
        read_mistakes(tmp_path / "mistakes.json")
    assert str(error.value).endswith(message)


def test_a_file_of_mistakes_comes_back_as_it_was(tmp_path):
    images = open_images(DIGITS, "test")
    mistakes = find_mistakes(toy(images.labels, [1] * 50), images)
    write_mistakes(tmp_path, mistakes)
    assert read_mistakes(tmp_path / "mistakes.json") == mistakes


def test_other_classes_are_refused_with_the_first_that_differs(digits_file, digit_folders):
    data = ImageDataConfig(name="imagefolder", root=str(digit_folders))
    with pytest.raises(ValueError) as error:
        run(EvaluateConfig(weights=str(digits_file), data=data))
    assert str(error.value) == (
        f"{digits_file} was trained on 10 classes, {digit_folders / 'test'} has 3; the first that differs is "
        "class 0: '0' there, 'nought' here"
    )


def test_fewer_classes_with_the_same_names_are_refused(digits_file):
    net, images = weights.load(digits_file), open_images(DIGITS, "test")
    net.classes = [*images.classes, "ten"]
    with pytest.raises(ValueError, match="is class 10: 'ten' there, none here"):
        check_classes("w", net, images)


def test_weights_without_names_need_as_many_classes(caplog):
    images = open_images(DIGITS, "test")
    with caplog.at_level(logging.WARNING):
        check_classes("w", create("nasnet_a_cifar", num_classes=10), images)
    assert "w names no classes: they are taken to be those of digits, in order" in caplog.text
    with pytest.raises(ValueError, match="w has 1 class without names, digits has 10"):
        check_classes("w", create("nasnet_a_cifar", num_classes=1), images)
    with pytest.raises(ValueError, match="w has 9 classes without names, digits has 10"):
        check_classes("w", create("nasnet_a_cifar", num_classes=9), images)


def test_the_folder_of_a_training_is_not_written_over(digits_file):
    with pytest.raises(ValueError, match="holds a run with figures of its own; choose another folder"):
        run(EvaluateConfig(weights=str(digits_file), data=DIGITS, output=str(digits_file.parent)))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"device": "foo"}, "device = 'foo', expected auto, cpu, cuda or cuda:<number>"),
        ({"threads": 0}, "threads = 0, must be at least 1, or null"),
        ({"batch_size": 0}, "batch_size = 0, must be at least 1, or null"),
        ({"split": "val"}, "split = 'val', expected one of test, train"),
        (
            {"logger": LoggerConfig(name="wandb")},
            "logger = wandb, but there is no output folder; set output=DIR",
        ),
    ],
)
def test_bad_values_are_refused_by_name(values, message):
    with pytest.raises(ValueError) as error:
        EvaluateConfig(weights="absent", data=ImageDataConfig(), **values)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda out: out.write_text("mine"), "is not a folder"),
        (
            lambda out: (out.mkdir(), (out / "metrics.json").write_text('{"stage": "detection"}')),
            "holds a metrics.json that is not of a classification evaluation; choose another folder",
        ),
        (lambda out: out.symlink_to("/proc/x"), "is not a folder"),
    ],
)
def test_an_output_folder_that_cannot_be_written_is_refused_before_the_evaluation(tmp_path, make, message):
    out = tmp_path / "out"
    make(out)
    config = EvaluateConfig(weights="absent.safetensors", data=DIGITS, device="cpu", output=str(out))
    with pytest.raises(ValueError, match=f"output = {out} {message}"):
        run(config)


def test_an_evaluation_may_be_repeated_into_its_own_folder_and_leaves_no_lock(digits_file, tmp_path):
    config = EvaluateConfig(weights=str(digits_file), data=DIGITS, device="cpu", output=str(tmp_path / "out"))
    assert run(config) == run(config)
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {
        *("metrics.json", "mistakes.json", "evaluation.yaml", "command.txt", "versions.json", "inputs.json"),
        "SHA256SUMS",
    }
