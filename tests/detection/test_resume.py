"""A training that was killed or interrupted, and went on, is bit for bit the one that was not."""

import dataclasses
import multiprocessing
import os
import random
import signal
import sys
import time

import pytest
import torch
from checkpoints import checkpoint

from detection.engines.config import ENGINES
from detection.model.config import C4HeadConfig, RpnConfig
from detection.train import run
from detection.training.module import DetectionModule
from runtime.resume import LAST

STEPS_PER_EPOCH, STEPS, EVERY = 3, 6, 2
"""12 scenes in batches of 4, two passes each; an evaluation after every second step."""
C4 = {
    "rpn_channels": 8,
    "rpn": RpnConfig(anchor_sizes=[16, 48], batch_size_per_image=32, post_nms_train=20, post_nms_test=20),
    "box_head": C4HeadConfig(batch_size_per_image=8, crop_size=5),
}


@pytest.fixture
def config(small_config, backbone_file, scenes):
    """Returns a function that configures a run in which all is on that leaves a trace from step to step."""

    def make(folder, engine="torchvision_fpn", workers=0):
        recipe = {"batch_size": 4, "accumulate": 2, "ema_decay": 0.9, "steps": STEPS}
        asked = small_config(folder, backbone_file, scenes, **recipe)
        if engine.startswith("detectron2"):
            pytest.importorskip("detectron2")
        keys = {f.name: getattr(asked.detector, f.name) for f in dataclasses.fields(asked.detector)}
        asked.detector = ENGINES[engine](**(C4 if engine.endswith("c4") else keys) | {"name": engine})
        asked.data = dataclasses.replace(scenes, workers=workers, flip=True, min_sizes=[64, 96])
        asked.trainer = dataclasses.replace(asked.trainer, checkpoint_seconds=None)
        patient = dataclasses.replace(asked.recipe, patience=100)
        return dataclasses.replace(asked, validate_every_steps=EVERY, recipe=patient)

    return make


def train_and_signal(config, step, number):
    """Sends its own process the signal `number` in the first pass of optimiser step `step`, from 0."""
    torch.set_num_threads(1)  # a forked process must not use the pool of threads that it lost
    training_step, sent = DetectionModule.training_step, False

    def signalling_step(self, *args):
        nonlocal sent
        if self.global_step == step and not sent:
            sent = True
            os.kill(os.getpid(), number)
        return training_step(self, *args)

    DetectionModule.training_step = signalling_step
    try:
        run(config)
    except KeyboardInterrupt:
        sys.exit(130)


def in_a_process(function, *arguments):
    process = multiprocessing.get_context("fork").Process(target=function, args=arguments)
    process.start()
    end = time.monotonic() + 300
    # Not `join`, which waits for the loader's workers, too: they end a second after the process.
    while process.exitcode is None and time.monotonic() < end:
        time.sleep(0.05)
    return process.exitcode


def assert_equal_runs(a, b):
    ours, theirs = checkpoint(a), checkpoint(b)  # weights, average, optimiser, schedule, evaluations, random
    assert [key for key in theirs if ours.get(key) != theirs[key]] == []
    assert ours.keys() == theirs.keys()
    for name in ("detector.safetensors", "best.safetensors", "predictions.json", "metrics.json"):
        assert (a / name).read_bytes() == (b / name).read_bytes(), name


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Returns a function that gives the folder of an unbroken run, made when first asked for."""
    runs = {}

    def get(make, *keys):
        if keys not in runs:
            runs[keys] = tmp_path_factory.mktemp("straight")
            run(make(runs[keys], *keys))
        return runs[keys]

    return get


def test_what_is_compared_is_there(config, straight):
    content = torch.load(straight(config) / "checkpoints" / LAST, weights_only=True)
    assert content["global_step"] == STEPS
    momenta = content["optimizer_states"][0]["state"]
    assert all(float(state["momentum_buffer"].abs().sum()) > 0 for state in momenta.values())
    average, current = content["state_dict"], content["current_model_state"]
    assert any(not torch.equal(average[name], current[name]) for name in average)
    (evaluations,) = (state for key, state in content["callbacks"].items() if key == "Validation")
    assert evaluations["step"] == STEPS - EVERY


@pytest.mark.parametrize(
    ("workers", "step"),
    [
        pytest.param(0, STEPS_PER_EPOCH + 1, id="inside an epoch"),
        pytest.param(2, STEPS_PER_EPOCH, id="between epochs", marks=pytest.mark.slow),
    ],
)
def test_a_killed_and_continued_run_equals_an_unbroken_one(tmp_path, config, straight, workers, step):
    asked = config(tmp_path, "torchvision_fpn", workers)
    assert in_a_process(train_and_signal, asked, step, signal.SIGKILL) == -signal.SIGKILL
    assert not (tmp_path / "metrics.json").exists()
    run(asked)
    assert_equal_runs(tmp_path, straight(config))


@pytest.mark.slow
@pytest.mark.parametrize("engine", [name for name in ENGINES if name != "torchvision_fpn"])
@pytest.mark.parametrize("step", [STEPS_PER_EPOCH + 1, STEPS_PER_EPOCH])
def test_the_other_engines_continue_as_exactly(tmp_path, config, straight, engine, step):
    asked = config(tmp_path, engine)
    assert in_a_process(train_and_signal, asked, step, signal.SIGKILL) == -signal.SIGKILL
    run(asked)
    assert_equal_runs(tmp_path, straight(config, engine))


@pytest.mark.slow
def test_an_interrupted_and_continued_run_equals_an_unbroken_one(tmp_path, config, straight):
    asked = config(tmp_path)
    asked.trainer = dataclasses.replace(asked.trainer, checkpoint_steps=None)
    assert in_a_process(train_and_signal, asked, 4, signal.SIGINT) == 130
    assert (tmp_path / "checkpoints" / LAST).exists()
    run(asked)
    assert_equal_runs(tmp_path, straight(config))


def train_quietly(config):
    torch.set_num_threads(1)
    run(config)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "workers"), [("torchvision_fpn", 0), ("torchvision_fpn", 2), ("detectron2_fpn", 0)]
)
def test_a_run_may_be_killed_at_any_moment(tmp_path, config, straight, engine, workers):
    """20 kills at random moments of the training, its evaluations and its end, one run after the other."""
    start = time.monotonic()
    expected = straight(config, engine)
    whole = max(time.monotonic() - start, 3.0)
    draws, kills = random.Random(workers), 0
    for number in range(100):
        folder = tmp_path / str(number)
        asked, patience = config(folder, engine, workers), 1.0
        while not (folder / "metrics.json").exists():
            process = multiprocessing.get_context("fork").Process(target=train_quietly, args=(asked,))
            process.start()
            process.join(timeout=draws.uniform(0.2, 1.2) * whole * patience)
            if process.is_alive():
                process.kill()
                kills += 1
            process.join()
            patience *= 1.2  # on a machine that is busier now, no step might be done in the time
        assert_equal_runs(folder, expected)
        if kills >= 20:
            return
    raise AssertionError(f"only {kills} kills")
