"""Killed, interrupted and finished runs of a small network: continued, they are the unbroken run."""

import csv
import dataclasses
import json
import math
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from checkpoints import checkpoint
from small_training import EPOCHS, STEPS_PER_EPOCH, config

from classification.module import ClassificationModule
from classification.train import run
from runtime.config import LoggerConfig
from runtime.resume import LAST


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


@pytest.mark.parametrize(
    ("workers", "step"),
    [
        pytest.param(0, 3, id="inside an epoch"),
        pytest.param(2, STEPS_PER_EPOCH + 1, id="between epochs", marks=pytest.mark.slow),
    ],
)
def test_a_killed_and_continued_run_equals_an_unbroken_one(tmp_path, digit_folders, straight, workers, step):
    run_killed(config(tmp_path, digit_folders, workers=workers), step)
    assert_equal_runs(tmp_path, straight(workers))


@pytest.mark.parametrize(
    ("workers", "step"),
    [
        pytest.param(2, 3, id="inside an epoch"),
        pytest.param(0, 4, id="between epochs", marks=pytest.mark.slow),
    ],
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


def test_a_damaged_image_costs_no_step_and_once_replaced_the_run_goes_on(
    tmp_path, digit_folders, straight, caplog
):
    root, folder = tmp_path / "data", tmp_path / "run"
    shutil.copytree(digit_folders, root)
    never = dataclasses.replace(config("", "").trainer, checkpoint_steps=None)
    asked = dataclasses.replace(config(folder, root, workers=2), trainer=never)
    image = sorted((root / "train/two").iterdir())[7]
    whole = image.read_bytes()
    image.write_bytes(whole[: len(whole) // 2])
    with caplog.at_level("INFO"), pytest.raises(ValueError, match=f"{image}: "):
        run(asked)
    assert "stopped after step 2, which is saved: once mended, the same command goes on" in caplog.messages
    image.write_bytes(whole)
    with caplog.at_level("INFO"):
        run(asked)
    assert "continuing after step 2 of 12" in caplog.messages
    assert_equal_runs(folder, straight(2))


def test_a_run_goes_on_with_the_images_that_it_began_with(tmp_path, digit_folders):
    root, moved, folder = tmp_path / "data", tmp_path / "moved", tmp_path / "run"
    shutil.copytree(digit_folders, root)
    process = multiprocessing.get_context("fork").Process(
        target=train_and_signal, args=(config(folder, root), 3, signal.SIGKILL)
    )
    process.start()
    process.join(timeout=120)
    root.rename(moved)
    image = next((moved / "train" / "one").iterdir())
    image.rename(moved / "train" / "two" / "other.png")  # as many images and steps as before
    with pytest.raises(ValueError, match=r"data.train.sha256: .* -> .* \(images or labels\)"):
        run(config(folder, moved))
    (moved / "train" / "two" / "other.png").rename(image)
    assert run(config(folder, moved))["steps"] == STEPS_PER_EPOCH * EPOCHS


def test_a_resumed_run_keeps_the_figures_of_every_step_once(tmp_path, digit_folders):
    every_step = dataclasses.replace(config("", "").trainer, log_every_steps=1)
    asked = dataclasses.replace(
        config(tmp_path, digit_folders), trainer=every_step, logger=LoggerConfig(name="csv")
    )
    run_killed(asked, STEPS_PER_EPOCH + 2)  # its last checkpoint is that of the step after an evaluation
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    steps = {key: [int(row["step"]) for row in rows if row[key]] for key in ("loss", "test/top1")}
    epochs = [STEPS_PER_EPOCH * epoch for epoch in range(1, EPOCHS + 1)]
    assert steps == {"loss": [*range(1, STEPS_PER_EPOCH * EPOCHS + 1)], "test/top1": [*epochs, epochs[-1]]}


@pytest.mark.parametrize(
    ("number", "step"),
    [
        (signal.SIGTERM, 1),
        pytest.param(signal.SIGTERM, 3, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 7, marks=pytest.mark.slow),
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


def test_what_damaged_figures_tell_to_do_gives_them_back(tmp_path, digit_folders, straight):
    asked = config(tmp_path, digit_folders)
    run(asked)
    figures = tmp_path / "metrics.json"
    figures.write_text(figures.read_text()[:90])
    with pytest.raises(ValueError, match=r"metrics\.json: expected .* again from checkpoints/last\.ckpt$"):
        run(asked)
    figures.unlink()
    run(asked)
    assert_equal_runs(tmp_path, straight(0))
    shutil.rmtree(tmp_path / "checkpoints")
    figures.write_text("{}")
    gone = r"metrics is missing; .* delete it to start from the beginning: checkpoints/last\.ckpt.* is gone$"
    with pytest.raises(ValueError, match=gone):
        run(asked)


@pytest.mark.parametrize("stage", ["search", "detection"])
def test_a_finished_run_of_another_stage_is_named_and_kept(tmp_path, digit_folders, stage):
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    (tmp_path / "metrics.json").write_text(json.dumps({"stage": stage, "metrics": {}}))
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(ValueError) as error:
        run(config(tmp_path, digit_folders))
    expected = f"holds a finished {stage} run, expected a classification run; choose another run_dir"
    assert str(error.value) == f"{tmp_path} {expected}"
    assert sorted(os.listdir(tmp_path)) == before


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
