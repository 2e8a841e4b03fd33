"""Whole trainings of a small detector: what they leave, how they are guided, what stops them."""

import csv
import dataclasses
import json
import math
import re

import pytest
import torch

from backbones import weights
from backbones.words import counted
from detection.data.config import CocoDataConfig
from detection.data.images import open_split
from detection.detector import Detector
from detection.evaluation.results_file import read_results
from detection.evaluation.scoring import METRICS, evaluate
from detection.model.heads import SecondStage
from detection.train import run as train
from detection.training.batch_size import kept_batch_size
from detection.training.module import DetectionModule
from runtime.finite import NonFiniteError
from runtime.resume import LAST


def test_a_run_leaves_weights_predictions_and_the_twelve_numbers(trained, scenes):
    folder, result = trained
    assert json.loads((folder / "metrics.json").read_text()) == result
    assert (result["annotations"], result["images"]) == ("val.json", 6)
    assert list(result["metrics"]) == [name for name in METRICS if name not in result["undefined"]]
    coco = open_split(scenes, "val").coco
    assert evaluate(coco, read_results(folder / "predictions.json", coco)).metrics == result["metrics"]
    assert list(result["per_class"]) == [str(digit) for digit in range(10)]
    areas = coco.areas[~coco.crowd]
    absent = [key for key, here in (("s", areas < 32**2), ("l", areas > 96**2)) if not here.any()]
    assert result["undefined"] == [metric + size for metric in ("AP", "AR") for size in absent]
    assert "APl" in result["undefined"]  # no digit of a scene is larger than 84 px
    with (folder / "metrics.csv").open(newline="") as file:
        last = [row for row in csv.DictReader(file) if row["val/AP"]][-1]
    logged = {key[4:]: float(value) for key, value in last.items() if key.startswith("val/")}
    assert logged == result["metrics"]
    detector = Detector.load(folder / "detector.safetensors", "cpu")
    assert result["costs"]["parameters"] == sum(p.numel() for p in detector.engine.parameters())
    assert result["costs"]["multiply_adds"] > 1e6
    assert (result["best"]["AP"], result["best"]["step"]) == (result["metrics"]["AP"], result["steps"])
    predictions = json.loads((folder / "predictions.json").read_text())
    assert {frozenset(p) for p in predictions} == {frozenset(["image_id", "category_id", "bbox", "score"])}
    assert {p["image_id"] for p in predictions} <= set(open_split(scenes, "val").coco.image_ids.tolist())


def test_a_finished_run_returns_its_figures_without_its_data(
    trained, small_config, backbone_file, scenes, tmp_path
):
    folder, result = trained
    moved = type(scenes)(**vars(scenes) | {"root": str(tmp_path / "gone")})
    assert train(small_config(folder, backbone_file, moved)) == result
    assert not (tmp_path / "gone").exists()


def test_categories_that_differ_between_the_splits_are_refused(
    small_config, backbone_file, coco_folder, coco_file, tmp_path
):
    coco_file("annotations/instances_val2017.json", categories=lambda c: [{**c[0], "name": "brush"}, c[1]])
    config = small_config(tmp_path / "run", backbone_file, CocoDataConfig(root=str(coco_folder)))
    with pytest.raises(ValueError, match=r"instances_val2017\.json has 2 categories.*'brush'.*'toothbrush'"):
        train(config)


def checkpoint(folder):
    return torch.load(folder / "checkpoints" / LAST, weights_only=True)


def test_a_rate_that_is_too_high_stops_the_run_and_names_images_and_module(
    small_config, backbone_file, scenes, tmp_path
):
    asked = small_config(tmp_path, backbone_file, scenes, lr=1e30, clip_norm=None, warmup_steps=0)
    with pytest.raises(NonFiniteError) as error:
        train(asked)
    assert re.search(
        r"^step 2, learning rate 1e\+30: the loss is nan \(proposals nan\); run again, the first output that "
        r"is not finite is that of engine\.backbone\.\S+ \(\w+\)\. The batch: image \d+ \(\w+\.png\), image",
        str(error.value),
    )
    report = json.loads((tmp_path / "non_finite.json").read_text())
    ids = {f"image {i} " for i in open_split(scenes, "train").coco.image_ids.tolist()}
    assert len(report["samples"]) == 2
    assert all(any(sample.startswith(one) for one in ids) for sample in report["samples"])
    assert checkpoint(tmp_path)["global_step"] == 1
    assert all(value.isfinite().all() for value in checkpoint(tmp_path)["state_dict"].values())


def test_a_loss_that_is_not_finite_is_named(small_config, backbone_file, scenes, tmp_path, monkeypatch):
    losses = SecondStage.losses
    monkeypatch.setattr(
        SecondStage,
        "losses",
        lambda self, *args: {k: v * (math.inf if "box" in k else 1) for k, v in losses(self, *args).items()},
    )
    with pytest.raises(NonFiniteError, match=r"the loss is \w+ \(loss_box_reg \w+\); run again, every"):
        train(small_config(tmp_path, backbone_file, scenes))


def test_a_training_that_gets_no_better_ends_early_and_its_best_weights_are_kept(
    small_config, backbone_file, scenes, tmp_path, caplog
):
    caplog.set_level("INFO")
    asked = small_config(tmp_path, backbone_file, scenes, lr=1e-12, steps=20)
    recipe = dataclasses.replace(asked.recipe, patience=2)
    patient_config = dataclasses.replace(asked, validate_every_steps=2, recipe=recipe)
    result = train(patient_config)
    # Evaluated after 2, 4 and 6 steps, the first of which is the best as nothing changes.
    assert result["steps"] == checkpoint(tmp_path)["global_step"] == 6
    assert result["best"] == {"AP": pytest.approx(result["metrics"]["AP"], abs=1e-4), "step": 2}
    (finished,) = (text for text in caplog.messages if text.startswith("detection: finished"))
    assert "APs " in finished
    assert "APl " not in finished  # it is undefined
    assert f"The training ends: no AP above {result['best']['AP']:.4g} since step 2" in caplog.text
    _, metadata = weights.read_safetensors(tmp_path / "best.safetensors", "detector")
    assert metadata["metrics"]["AP"] == result["best"]["AP"]
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    assert [int(row["step"]) for row in rows if row["val/AP"]] == [2, 4, 6, 6]

    (tmp_path / "metrics.json").write_text("{")
    again = r"metrics\.json: .*, or delete it and start .* makes it again from checkpoints/last\.ckpt$"
    with pytest.raises(ValueError, match=again):
        train(patient_config)
    (tmp_path / "metrics.json").unlink()  # also as if killed in its last evaluation
    assert train(patient_config) == result


def test_a_training_scored_on_images_without_boxes_has_no_figures_and_goes_on_to_its_end(
    small_config, backbone_file, coco_folder, tmp_path, caplog
):
    caplog.set_level("INFO")
    file = coco_folder / "annotations" / "instances_val2017.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"annotations": []}))
    data = CocoDataConfig(root=str(coco_folder), min_sizes=[96], test_min_size=96, workers=0)
    asked = small_config(tmp_path / "run", backbone_file, data, steps=3)
    recipe = dataclasses.replace(asked.recipe, patience=1)
    config = dataclasses.replace(asked, validate_every_steps=1, recipe=recipe)
    result = train(config)
    assert (result["steps"], result["metrics"], "best" in result) == (3, {}, False)
    assert {"AP", "AR100"} <= set(result["undefined"])
    assert "detection: finished after step 3: no figure is defined" in caplog.messages
    assert (tmp_path / "run" / "detector.safetensors").exists()
    assert train(config) == result  # as it is told of a finished run
    assert "best.safetensors" not in caplog.text


def test_patience_without_evaluations_is_refused(small_config, backbone_file, scenes, tmp_path):
    asked = small_config(tmp_path, backbone_file, scenes)
    with pytest.raises(ValueError, match=r"recipe\.patience = 3 counts evaluations: set validate"):
        dataclasses.replace(asked, recipe=dataclasses.replace(asked.recipe, patience=3))


@pytest.fixture(scope="module")
def two_steps(small_config, backbone_file, scenes, tmp_path_factory):
    """Returns a function that gives the weights after two steps with a trainer of one kind."""

    def get(**trainer):
        folder = tmp_path_factory.mktemp("two")
        asked = small_config(folder, backbone_file, scenes, steps=2, norm="batch")
        train(dataclasses.replace(asked, trainer=dataclasses.replace(asked.trainer, **trainer)))
        return checkpoint(folder)["state_dict"]

    return get


@pytest.mark.slow
def test_layout_memory_and_precision_train_the_same_weights(two_steps):
    plain = two_steps()
    other = two_steps(channels_last=False, activation_memory="checkpoint")
    assert max(float((other[key].double() - plain[key].double()).abs().max()) for key in plain) <= 1e-4
    half = two_steps(precision="bf16-mixed")
    assert all(half[key].dtype == value.dtype for key, value in plain.items())
    assert all(value.isfinite().all() for value in half.values())
    assert any(not torch.equal(half[key], value) for key, value in plain.items())


class Killed(Exception):
    pass


def test_the_largest_batch_is_found_once_and_kept(
    small_config, backbone_file, scenes, tmp_path, monkeypatch, caplog
):
    caplog.set_level("INFO")

    def die(*_):
        raise Killed

    def found(folder, megabytes):
        monkeypatch.setattr("detection.training.batch_size.available_memory", lambda: megabytes * 2**20)
        asked = small_config(tmp_path / folder, backbone_file, scenes, batch_size="auto", steps=1)
        with monkeypatch.context() as patch:
            patch.setattr(DetectionModule, "training_step", die)
            with pytest.raises(Killed):
                train(asked)
        return json.loads((tmp_path / folder / "batch_size.json").read_text())["batch_size"], asked

    sizes = {megabytes: found(str(megabytes), megabytes)[0] for megabytes in (20, 40, 100_000)}
    assert 1 <= sizes[20] < sizes[40] < sizes[100_000] == 12  # all there are
    caplog.clear()
    size, asked = found("20", 100_000)
    assert size == sizes[20]
    train(asked)
    assert f"{counted(size, 'image')} per step; learning rate" in caplog.text
    with pytest.raises(ValueError, match="batch_size = auto: not even a step on one image of 192x192 px"):
        found("none", 1)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("norm", "side", "warned"), [("batch", 32, True), ("batch", 64, False), ("auto", 32, False)]
)
def test_batches_too_small_for_batch_normalisation_are_warned_of(
    small_config, backbone_file, scenes, tmp_path, caplog, norm, side, warned
):
    """2 images of 32 px leave 2 values per channel at stride 32; loaded statistics, auto's, need none."""
    data = dataclasses.replace(scenes, fixed_size=side)
    train(small_config(tmp_path / "run", backbone_file, data, steps=1, norm=norm))
    assert ("sees 2 values per channel (2 images, a map of 1x1)" in caplog.text) == warned


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"batch_size": null}', '{"batch_size": 0}'])
def test_a_damaged_batch_size_is_named_with_what_to_do(tmp_path, content):
    (tmp_path / "batch_size.json").write_text(content)
    with pytest.raises(
        ValueError, match=f"^{tmp_path}/batch_size.json: .*; restore it, or delete it to find"
    ):
        kept_batch_size(tmp_path)
