"""Whole trainings of a small network: the result, its figures, and what is refused."""

import csv
import dataclasses
import json
import math
import re

import pytest
import torch
from small_training import AS_THEY_ARE, EPOCHS, STEPS_PER_EPOCH, config

from backbones import weights
from backbones.config import BackboneConfig
from backbones.published import NASNET_A
from classification import evaluation
from classification.config import EvaluateConfig
from classification.module import ClassificationModule
from classification.train import run
from runtime.config import LoggerConfig
from runtime.finite import NonFiniteError
from runtime.resume import LAST


def test_figures_of_something_else_are_no_finished_run(tmp_path, digit_folders):
    (tmp_path / "metrics.json").write_text('{"stage": "other"}')
    with pytest.raises(ValueError, match=r"holds a finished other run, expected a classification run"):
        run(config(tmp_path, digit_folders))
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [
        ("metrics.json", '{"stage": "other"}')
    ]


def test_the_backbone_file_describes_itself(straight):
    net = weights.load(straight(0) / "backbone.safetensors")
    assert net.classes == ["nought", "one", "two"]
    assert (net.preprocessing.size, net.preprocessing.crop) == (16, 1.0)
    content = json.loads((straight(0) / "metrics.json").read_text())
    assert list(content["metrics"]) == ["top1", "loss"]  # of three classes, where the five best are all
    assert list(content["costs"]) == ["parameters", "multiply_adds"]
    assert content["costs"]["parameters"] == sum(p.numel() for p in net.parameters())


def test_the_network_learns_the_digits(tmp_path, digit_folders):
    # Without what holds a small network back, 30 digits are learnt in a few seconds; chance is 1/3.
    calm = {"epochs": 20, "lr": 0.03, "drop_path_keep": 1.0, "dropout": 0.0, "ema_decay": None, **AS_THEY_ARE}
    calm["auxiliary_weight"] = 0.0
    metrics = run(config(tmp_path, digit_folders, recipe=calm, validate_every_epochs=None))["metrics"]
    assert metrics["top1"] >= 0.75  # at seeds 0 to 3 it is 1, so that no rounding decides


def test_a_network_of_timm_trains_and_is_evaluated_like_ours(tmp_path, digit_folders):
    pytest.importorskip("timm")
    asked = config(tmp_path, digit_folders, recipe={"epochs": 16, "lr": 0.05, "dropout": 0.0, **AS_THEY_ARE})
    asked.backbone = BackboneConfig(name="timm/test_resnet", image_size=32)
    content = run(asked)
    assert content["metrics"]["top1"] >= 0.75  # chance is 1/3; with other seeds, too, it is 1
    net = weights.load(tmp_path / "backbone.safetensors")
    assert content["costs"]["parameters"] == sum(p.numel() for p in net.parameters())
    assert (net.classes, net.preprocessing.size) == (["nought", "one", "two"], 32)
    path = tmp_path / "backbone.safetensors"
    content = evaluation.run(EvaluateConfig(weights=str(path), data=asked.data, device="cpu", threads=1))
    assert content["metrics"] == weights.read_safetensors(path, "backbone")[1]["metrics"]


def test_drop_path_follows_the_optimiser_steps(tmp_path, digit_folders, monkeypatch):
    seen = []
    monkeypatch.setattr("backbones.network.NASNet.set_progress", lambda self, progress: seen.append(progress))
    run(config(tmp_path, digit_folders, recipe={"epochs": 1, "batch_size": 8, "accumulate": 2}))
    # 30 images give 6 batches of 4, two for each step; the first calls are the constructor's, of the
    # network and of the one that shows that it can be stored.
    assert seen[2:8] == pytest.approx([0, 0, 1 / 3, 1 / 3, 2 / 3, 2 / 3])


@pytest.mark.parametrize("every", [None, 2])
def test_the_figures_of_the_saved_weights_reach_the_trackers(tmp_path, digit_folders, every):
    asked = dataclasses.replace(
        config(tmp_path, digit_folders), logger=LoggerConfig(name="csv"), validate_every_epochs=every
    )
    metrics = run(asked)["metrics"]
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["test/top1"]]
    evaluated = [] if every is None else [2 * STEPS_PER_EPOCH]
    assert [int(row["step"]) for row in rows] == [*evaluated, STEPS_PER_EPOCH * EPOCHS]
    assert {key: float(rows[-1][f"test/{key}"]) for key in metrics} == metrics


def test_what_could_not_be_written_at_the_end_is_refused_at_the_start(tmp_path, digit_folders):
    """JSON has no NaN: the search's reward in a genotype's origin would end the training's last second."""
    path = tmp_path / "genotype.json"
    content = json.dumps(NASNET_A.to_dict() | {"origin": {"reward": math.nan}})
    path.write_text(content)
    asked = config(tmp_path / "run", digit_folders)
    asked = dataclasses.replace(
        asked, backbone=dataclasses.replace(asked.backbone, name=str(path), stem="cifar")
    )
    with pytest.raises(ValueError, match=r"genotype.json: origin|network = .* cannot be stored"):
        run(asked)
    assert not (tmp_path / "run").exists()


def test_splits_with_different_classes_are_refused_and_leave_nothing(tmp_path, digit_folders):
    (tmp_path / "data" / "train").mkdir(parents=True)
    (tmp_path / "data" / "train" / "one").symlink_to(digit_folders / "train" / "one")
    (tmp_path / "data" / "test").symlink_to(digit_folders / "test")
    with pytest.raises(ValueError, match="have different classes: only one has nought"):
        run(config(tmp_path / "run", tmp_path / "data"))
    assert not (tmp_path / "run").exists()


def test_too_few_images_for_a_batch_are_refused_and_leave_nothing(tmp_path, digit_folders):
    with pytest.raises(ValueError, match="30 samples give no batch of 31"):
        run(config(tmp_path / "run", digit_folders, recipe={"batch_size": 31}))
    assert not (tmp_path / "run").exists()


def test_cutout_is_refused_where_it_would_do_nothing(tmp_path, digit_folders):
    with pytest.raises(ValueError, match=r"recipe\.cutout = 4 cuts resident images only"):
        config(tmp_path, digit_folders, workers=2, recipe={"cutout": 4})


def test_statistics_that_are_too_slow_for_the_run_are_warned_of(tmp_path, digit_folders, caplog):
    slow = config(tmp_path, digit_folders, recipe={"epochs": 1, "ema_decay": None})
    slow.backbone.batch_norm_momentum = 0.0003  # ImageNet's: 4 batches leave 0.9997^4 of the start
    run(slow)
    assert (
        "batch_norm_momentum = 0.0003: after 4 batches the statistics that evaluation uses are still 100 % "
        "initial values; train longer, or set backbone.batch_norm_momentum=0.53"  # 0.47^4 < 0.05 < 0.48^4
    ) in caplog.text


@pytest.mark.parametrize(("batch_size", "warned"), [(3, True), (7, False)])
def test_batches_too_small_for_batch_normalisation_are_warned_of(
    tmp_path, digit_folders, caplog, batch_size, warned
):
    small = config(tmp_path, digit_folders, recipe={"epochs": 1, "batch_size": batch_size, "cutout": 0})
    small.backbone.image_size = 4  # a last map of 1x1
    run(small)
    assert ("sees 3 values per channel (3 images, a map of 1x1)" in caplog.text) == warned


def test_an_evaluation_that_is_not_finite_is_explained_and_keeps_the_training(
    tmp_path, digit_folders, monkeypatch
):
    asked = config(tmp_path, digit_folders, recipe={"epochs": 1, "ema_decay": None})

    def overflow(module):
        next(b for name, b in module.network.named_buffers() if "running_mean" in name).fill_(math.nan)

    monkeypatch.setattr(ClassificationModule, "on_fit_end", overflow, raising=False)
    with pytest.raises(NonFiniteError) as error:
        run(asked)
    assert "the loss in evaluation is nan: the outputs overflow" in str(error.value)
    assert f"its weights are in {tmp_path / 'checkpoints' / LAST}" in str(error.value)
    assert not (tmp_path / "metrics.json").exists()
    monkeypatch.undo()
    assert math.isfinite(run(asked)["metrics"]["loss"])


@pytest.mark.parametrize(("workers", "sample"), [(2, r"/train/\w+/\d+\.png"), (0, r"image \d+")])
def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_images(
    tmp_path, digit_folders, workers, sample
):
    asked = config(tmp_path, digit_folders, workers=workers, recipe={"lr": 1e30, "clip_norm": None})
    with pytest.raises(NonFiniteError) as error:
        run(asked)
    assert re.search(
        r"^step 2, learning rate .*: the loss is (nan|inf)( \(loss_cls .*\))?; run again, the first output "
        rf"that is not finite is that of network\.\S+ \(\w+\). The batch: \S*{sample}, ",
        str(error.value),
    )
    report = json.loads((tmp_path / "non_finite.json").read_text())
    assert (report["step"], len(report["samples"])) == (2, 7)
    assert torch.load(tmp_path / "checkpoints" / LAST, weights_only=True)["global_step"] == 1
    assert not (tmp_path / "metrics.json").exists()
