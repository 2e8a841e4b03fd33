"""Whole trainings of a small network: the result, exact resume, evaluation, and what is refused."""

import csv
import dataclasses
import json
import math
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from checkpoints import checkpoint
from genotypes import TWO_BLOCKS

from backbones import weights
from backbones.config import BackboneConfig
from backbones.published import NASNET_A
from classification import evaluation
from classification.config import ClassificationConfig, EvaluateConfig, ImageDataConfig, RecipeConfig
from classification.module import ClassificationModule
from classification.train import run
from runtime.config import LoggerConfig, TrainerConfig
from runtime.finite import NonFiniteError
from runtime.resume import LAST

STEPS_PER_EPOCH, EPOCHS = 4, 3
AS_THEY_ARE = {"cutout": 0, "rand_augment": 0, "mixup_alpha": 0.0, "cutmix_alpha": 0.0}
"""Leaves the images and the batches alone."""


def config(run_dir, root, *, workers=0, recipe=None, **changes):
    """30 real digits of 16 px in three classes; everything random is switched on.

    workers: 0 keeps the images resident, 2 decodes them in two processes.
    """
    data = ImageDataConfig(
        name="imagefolder", root=str(root), resident=workers == 0, workers=workers, crop_padding=2, flip=False
    )
    backbone = BackboneConfig(
        name=str(TWO_BLOCKS), stem="cifar", cells_per_stage=1, filters=4, stem_filters=4, image_size=16
    )
    values = {"epochs": EPOCHS, "batch_size": 7, "lr": 0.05, "ema_decay": 0.9, "dropout": 0.2}
    values |= {"cutout": 4 if workers == 0 else 0, "rand_augment": 1, "mixup_alpha": 0.4, "cutmix_alpha": 1.0}
    return ClassificationConfig(
        run_dir=str(run_dir),
        data=data,
        backbone=backbone,
        recipe=RecipeConfig(**{**values, "drop_path_keep": 0.6, "label_smoothing": 0.1, **(recipe or {})}),
        trainer=TrainerConfig(device="cpu", threads=1, checkpoint_seconds=None, checkpoint_steps=1),
        logger=LoggerConfig(name="none"),
        **changes,
    )


def train_and_signal(config, step, number, group=False):
    """Sends its own process the signal `number` in the middle of training step `step` (from 1).

    group: all processes of its group get it, as from Ctrl-C, `timeout`, systemd or SLURM."""
    if group:
        os.setsid()
    torch.set_num_threads(1)  # a forked process must not use the pool of threads that it lost
    begun, training_step = 0, ClassificationModule.training_step

    def signalling_step(self, *args):
        nonlocal begun
        begun += 1
        if begun == step:
            if group:  # from another process: a loader's worker knows its parent's signals
                subprocess.run(["kill", f"-{int(number)}", "--", f"-{os.getpgid(0)}"], check=False)
            else:
                os.kill(os.getpid(), number)
        return training_step(self, *args)

    ClassificationModule.training_step = signalling_step
    try:
        run(config)
    except KeyboardInterrupt:
        sys.exit(130)


def run_killed(config, step):
    process = multiprocessing.get_context("fork").Process(
        target=train_and_signal, args=(config, step, signal.SIGKILL)
    )
    process.start()
    process.join(timeout=120)
    assert process.exitcode == -signal.SIGKILL
    return run(config)


def assert_equal_runs(a, b):
    assert checkpoint(a) == checkpoint(b)  # weights, average, optimiser, schedule, sums, random states
    assert (a / "backbone.safetensors").read_bytes() == (b / "backbone.safetensors").read_bytes()
    assert (a / "metrics.json").read_text() == (b / "metrics.json").read_text()


@pytest.fixture(scope="module")
def straight(tmp_path_factory, digit_folders):
    """One unbroken run for each number of workers, made when first asked for."""
    runs = {}

    def get(workers):
        if workers not in runs:
            runs[workers] = tmp_path_factory.mktemp("straight")
            run(config(runs[workers], digit_folders, workers=workers))
        return runs[workers]

    return get


@pytest.mark.parametrize(
    ("workers", "step"),
    [pytest.param(0, 3, id="inside an epoch"), pytest.param(2, STEPS_PER_EPOCH + 1, id="between epochs")],
)
def test_a_killed_and_continued_run_equals_an_unbroken_one(tmp_path, digit_folders, straight, workers, step):
    run_killed(config(tmp_path, digit_folders, workers=workers), step)
    assert_equal_runs(tmp_path, straight(workers))


@pytest.mark.parametrize(
    ("workers", "step"), [pytest.param(2, 3, id="inside an epoch"), pytest.param(0, 4, id="between epochs")]
)
def test_an_interrupted_and_continued_run_equals_an_unbroken_one(
    tmp_path, digit_folders, straight, workers, step
):
    never = dataclasses.replace(config("", "").trainer, checkpoint_steps=None)
    asked = dataclasses.replace(config(tmp_path, digit_folders, workers=workers), trainer=never)
    process = multiprocessing.get_context("fork").Process(
        target=train_and_signal, args=(asked, step, signal.SIGINT)
    )
    process.start()
    process.join(timeout=120)
    assert process.exitcode == 130
    assert (tmp_path / "checkpoints" / LAST).exists()
    assert not (tmp_path / "metrics.json").exists()
    run(asked)
    assert_equal_runs(tmp_path, straight(workers))


@pytest.mark.parametrize(
    ("number", "step"),
    [
        (signal.SIGTERM, 1),
        pytest.param(signal.SIGTERM, 3, marks=pytest.mark.slow),
        (signal.SIGTERM, 7),
        pytest.param(signal.SIGINT, 6, marks=pytest.mark.slow),
    ],
)
def test_a_signal_to_the_group_ends_a_run_with_loader_workers_as_ctrl_c_does(
    tmp_path, digit_folders, straight, number, step
):
    never = dataclasses.replace(config("", "").trainer, checkpoint_steps=None)
    asked = dataclasses.replace(config(tmp_path, digit_folders, workers=2), trainer=never)
    process = multiprocessing.get_context("fork").Process(
        target=train_and_signal, args=(asked, step, number, True)
    )
    process.start()
    process.join(timeout=120)
    assert process.exitcode == 130
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)  # nobody is left
    run(asked)
    assert_equal_runs(tmp_path, straight(2))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("step", range(1, STEPS_PER_EPOCH * EPOCHS + 1))
def test_a_run_may_be_killed_at_any_step(tmp_path, digit_folders, straight, workers, step):
    run_killed(config(tmp_path, digit_folders, workers=workers), step)
    assert_equal_runs(tmp_path, straight(workers))


@pytest.mark.slow
def test_a_run_may_be_killed_at_any_moment(tmp_path, digit_folders, straight):
    """Twenty moments drawn over the length of a run, among them those of start, writing and evaluation."""
    straight(0)
    start = time.monotonic()
    run(config(tmp_path / "timed", digit_folders))
    length = time.monotonic() - start
    draw, kills = random.Random(0), 0
    for number in range(20):
        asked = config(tmp_path / str(number), digit_folders)
        process = multiprocessing.get_context("fork").Process(
            target=train_and_signal, args=(asked, math.inf, None)
        )
        process.start()
        process.join(timeout=draw.uniform(0, length))
        process.kill()
        process.join(timeout=60)
        kills += process.exitcode == -signal.SIGKILL
        run(asked)
        assert_equal_runs(tmp_path / str(number), straight(0))
    assert kills >= 10


def test_a_run_killed_in_its_last_evaluation_saves_the_averaged_weights(
    tmp_path, digit_folders, straight, monkeypatch
):
    class Killed(Exception):
        pass

    def die(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("classification.train.evaluate", die)
        with pytest.raises(Killed):
            run(config(tmp_path, digit_folders))
    run(config(tmp_path, digit_folders))
    assert_equal_runs(tmp_path, straight(0))


def test_a_finished_run_is_returned_at_once_and_refuses_another_recipe(digit_folders, straight):
    folder = straight(0)
    before = (folder / "backbone.safetensors").stat().st_mtime_ns
    assert run(config(folder, digit_folders)) == json.loads((folder / "metrics.json").read_text())
    with pytest.raises(ValueError, match=r"recipe\.lr: 0\.05 -> 0\.1"):
        run(config(folder, digit_folders, recipe={"lr": 0.1}))
    assert (folder / "backbone.safetensors").stat().st_mtime_ns == before


def test_a_finished_run_whose_product_is_gone_makes_it_again(tmp_path, digit_folders, straight, caplog):
    asked = config(tmp_path, digit_folders)
    run(asked)
    product = tmp_path / "backbone.safetensors"
    for spoil in (product.unlink, lambda: product.write_bytes(b"")):
        spoil()
        caplog.clear()
        run(asked)
        assert f"{product} is gone and is made again from checkpoints/last.ckpt" in caplog.text
        assert_equal_runs(tmp_path, straight(0))
    product.unlink()
    shutil.rmtree(tmp_path / "checkpoints")
    with pytest.raises(
        ValueError, match=r"whose backbone.safetensors is gone, and checkpoints/last.ckpt, from"
    ):
        run(asked)
    assert (tmp_path / "metrics.json").exists()
    assert not product.exists()


def test_figures_of_something_else_are_no_finished_run(tmp_path, digit_folders):
    (tmp_path / "metrics.json").write_text('{"stage": "other"}')
    with pytest.raises(ValueError, match=r"holds metrics.json, but no config.yaml"):
        run(config(tmp_path, digit_folders))
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [
        ("metrics.json", '{"stage": "other"}')
    ]


def test_a_run_says_where_it_lies_what_it_left_and_where_it_goes_on(tmp_path, digit_folders, caplog):
    asked = config(tmp_path, digit_folders)
    with caplog.at_level("INFO"):
        run_killed(asked, 6)
        content = json.loads((tmp_path / "metrics.json").read_text())
        best = content["best"]
        figures = "  ".join(f"{key} {value:.4g}" for key, value in content["metrics"].items())
        told = [
            f"classification: finished after step 12: {figures}",
            f"best top1 {best['top1']:.4g} at step {best['step']}",
            f"{tmp_path}/backbone.safetensors",
            f"{tmp_path}/metrics.json",
            f"report: python -m pipeline.report {tmp_path}",
        ]
        assert "continuing after step 5 of 12" in caplog.messages
        assert caplog.messages[-5:] == told
        run(asked)
        assert caplog.messages[-6:] == ["classification: was finished before", *told]
    log = [line.partition(": ")[2] for line in (tmp_path / "log.txt").read_text().splitlines()]
    assert log[0] == f"classification: {tmp_path}"
    assert log[-5:] == told


def test_the_backbone_file_describes_itself(straight):
    net = weights.load(straight(0) / "backbone.safetensors")
    assert net.classes == ["nought", "one", "two"]
    assert (net.preprocessing.size, net.preprocessing.crop) == (16, 1.0)
    content = json.loads((straight(0) / "metrics.json").read_text())
    assert list(content["metrics"]) == ["top1", "top5", "loss"]
    assert list(content["costs"]) == ["parameters", "multiply_adds"]
    assert content["costs"]["parameters"] == sum(p.numel() for p in net.parameters())


def test_the_network_learns_the_digits(tmp_path, digit_folders):
    # Without what holds a small network back, 30 digits are learnt in a few seconds; chance is 1/3.
    calm = {"epochs": 20, "lr": 0.03, "drop_path_keep": 1.0, "dropout": 0.0, "ema_decay": None, **AS_THEY_ARE}
    calm["auxiliary_weight"] = 0.0
    metrics = run(config(tmp_path, digit_folders, recipe=calm, validate_every_epochs=None))["metrics"]
    assert metrics["top1"] >= 0.75  # at seeds 0 to 3 it is 1, so that no rounding decides
    assert metrics["top5"] == 1.0


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
    assert int(rows[-1]["step"]) == STEPS_PER_EPOCH * EPOCHS
    assert {key: float(rows[-1][f"test/{key}"]) for key in metrics} == metrics
    assert len(rows) == (1 if every is None else 2)


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


CALM = {**AS_THEY_ARE, "drop_path_keep": 1.0, "dropout": 0.0, "ema_decay": None, "lr": 0.002}
"""Switches off what is drawn by the network and the batch; small steps keep rounding small."""


def trained(folder, root, *, epochs=1, backbone=None, recipe=None, **trainer):
    """Weights and statistics as they are after `2 * epochs` calm steps of one kind of trainer.

    With batch norm in training, rounding grows: after 10 steps two layouts were once 0.006 apart."""
    values = {**CALM, "epochs": epochs, "batch_size": 12, **(recipe or {})}
    asked = config(folder, root, recipe=values, validate_every_epochs=None)
    asked.backbone = backbone or asked.backbone
    run(dataclasses.replace(asked, trainer=dataclasses.replace(asked.trainer, **trainer)))
    content = torch.load(folder / "checkpoints" / LAST, weights_only=True)
    assert content["global_step"] == 2 * epochs
    return content["state_dict"]


def assert_close(a, b, tolerance):
    assert a.keys() == b.keys()
    worst = max(float((a[key].double() - b[key].double()).abs().max()) for key in a)
    assert worst <= tolerance


@pytest.fixture(scope="module")
def plain_weights(tmp_path_factory, digit_folders):
    return trained(tmp_path_factory.mktemp("plain"), digit_folders)


@pytest.mark.parametrize(
    "trainer", [{"activation_memory": "checkpoint"}, {"activation_memory": "lean"}, {"channels_last": False}]
)
def test_a_faster_or_leaner_step_trains_the_same_network(tmp_path, digit_folders, plain_weights, trainer):
    assert_close(trained(tmp_path, digit_folders, **trainer), plain_weights, 1e-4)


def test_a_compiled_step_trains_the_same_network(tmp_path, digit_folders):
    pytest.importorskip("timm")
    small = BackboneConfig(name="timm/test_resnet", image_size=32)  # cells take a minute to compile
    plain = trained(tmp_path / "plain", digit_folders, backbone=small)
    compiled = {"compile": True, "compile_backend": "aot_eager"}
    torch.compiler.reset()
    other = trained(tmp_path / "compiled", digit_folders, backbone=small, **compiled)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert_close(other, plain, 1e-4)


def test_bf16_trains_float_weights(tmp_path, digit_folders, plain_weights):
    other = trained(tmp_path, digit_folders, precision="bf16-mixed")
    assert all(other[key].dtype == value.dtype for key, value in plain_weights.items())
    assert any(not torch.equal(other[key], value) for key, value in plain_weights.items())
    assert all(value.isfinite().all() for value in other.values())


def test_activation_memory_is_refused_for_a_network_without_it(tmp_path, digit_folders):
    pytest.importorskip("timm")
    asked = config(tmp_path / "run", digit_folders)
    asked.backbone = BackboneConfig(name="timm/test_resnet", image_size=32)
    asked.trainer.activation_memory = "lean"
    with pytest.raises(ValueError, match=r"trainer\.activation_memory = lean is for networks"):
        run(asked)
    assert not (tmp_path / "run").exists()


def evaluate_norms_in_training(monkeypatch):
    """Batch norm with its running statistics in training, too: then a batch is the sum of its parts."""

    def freeze(self):
        for module in self.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()

    monkeypatch.setattr(ClassificationModule, "on_train_batch_start", lambda self, *_: freeze(self), False)


def test_accumulated_batches_equal_the_big_batch(tmp_path, digit_folders, monkeypatch):
    evaluate_norms_in_training(monkeypatch)
    big = trained(tmp_path / "big", digit_folders, epochs=5)
    parts = trained(tmp_path / "parts", digit_folders, epochs=5, recipe={"accumulate": 3})
    assert_close(parts, big, 1e-5)
