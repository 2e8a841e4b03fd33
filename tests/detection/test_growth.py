"""A finished detector that is trained for longer: a new run, and the old one is as it was."""

import dataclasses
import json
import multiprocessing
import os
import shutil

import pytest
import torch
from checkpoints import checkpoint

from backbones.ranges import ConfigError
from detection.train import run
from detection.training.module import DetectionModule
from runtime.config import LoggerConfig
from runtime.digests import digest
from runtime.owner import owned

STEPS_PER_EPOCH, LONG = 3, 5
"""12 scenes in batches of 4."""


@pytest.fixture(scope="module")
def config(small_config, backbone_file, scenes):
    """Returns a function that configures a run; recipe: keys of its recipe."""

    def make(folder, steps, every=None, patience=None, **recipe):
        keys = {"batch_size": 4, "ema_decay": 0.9, "warmup_steps": 2, **recipe, "steps": steps}
        asked = small_config(folder, backbone_file, scenes, **keys)
        asked = dataclasses.replace(asked, logger=LoggerConfig(name="none"), validate_every_steps=every)
        return dataclasses.replace(asked, recipe=dataclasses.replace(asked.recipe, patience=patience))

    return make


@pytest.fixture(scope="module")
def one_step(tmp_path_factory, config):
    folder = tmp_path_factory.mktemp("finished") / "run"
    run(config(folder, 1))
    return folder


@pytest.fixture
def finished(tmp_path, one_step):
    """The folder of a finished run of one step."""
    return shutil.copytree(one_step, tmp_path / "run")


def files(folder):
    return {str(path.relative_to(folder)): digest(path) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("short", "every"),
    [
        pytest.param(STEPS_PER_EPOCH + 1, 3, id="inside an epoch"),
        pytest.param(STEPS_PER_EPOCH, 4, id="between epochs", marks=pytest.mark.slow),
    ],
)
def test_at_a_constant_rate_it_is_bit_for_bit_the_run_that_was_long_from_the_start(
    tmp_path, config, short, every, caplog
):
    constant = {"milestones": [1000], "warmup_steps": 0, "every": every}
    old, straight, new = tmp_path / "run", tmp_path / "straight", tmp_path / f"run-{LONG}-steps"
    run(config(old, short, **constant))
    before = files(old)
    run(config(straight, LONG, **constant))
    with caplog.at_level("INFO"):
        done = run(config(old, LONG, **constant))
    assert files(old) == before
    told = (
        f"{old} is finished and stays as it is; a new run goes on from its last state to step {LONG}: {new}"
    )
    assert told in caplog.messages
    assert f"continuing after step {short} of {LONG}" in caplog.messages
    assert done["best"]["step"] > short  # best.safetensors is of a step of its own
    assert (new / "best.safetensors").exists()
    ours, theirs = checkpoint(new), checkpoint(straight)
    different = [key for key in theirs if ours.get(key) != theirs[key]]
    assert all(key.startswith("/callbacks/Validation/") for key in different)  # each has its own best AP
    assert (new / "predictions.json").read_bytes() == (straight / "predictions.json").read_bytes()


def test_each_step_has_the_rate_of_a_run_of_the_new_length(tmp_path, finished, config, monkeypatch):
    rates, step = [], torch.optim.SGD.step

    def recorded(self, *args, **kwargs):
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.SGD, "step", recorded)
    asked = config(finished, 7)
    run(asked)
    assert rates == [asked.recipe.lr * asked.recipe.rate(step, 7) for step in range(1, 7)]
    assert len(set(rates)) == 3  # the end of the warm-up, full, a tenth


def die_in_step(config, step):
    training_step = DetectionModule.training_step

    def dying_step(self, *args):
        if self.global_step == step:
            os._exit(9)
        return training_step(self, *args)

    DetectionModule.training_step = dying_step
    run(config)


def test_the_same_command_continues_it_and_it_can_be_named_and_grows_itself(
    tmp_path, finished, config, caplog
):
    new = tmp_path / "run-3-steps"
    process = multiprocessing.get_context("fork").Process(
        target=die_in_step, args=(config(finished, 3, every=1), 2)
    )
    process.start()
    process.join(timeout=120)
    assert process.exitcode == 9
    assert not (new / "metrics.json").exists()
    with caplog.at_level("INFO"):
        done = run(config(finished, 3, every=1))
        assert "continuing after step 2 of 3" in caplog.messages
        caplog.clear()
        assert run(config(new, 3, every=1)) == done == run(config(finished, 3, every=1))
        assert caplog.messages.count("detection: was finished before") == 2
        run(config(new, 4, every=1))
    assert "continuing after step 3 of 4" in caplog.messages
    assert (tmp_path / "run-3-steps-4-steps" / "detector.safetensors").exists()
    shutil.rmtree(finished)  # which it no longer needs
    assert run(config(new, 3, every=1)) == done


@pytest.mark.slow
def test_a_run_that_ended_for_want_of_a_better_ap_gets_its_patience_anew(tmp_path, config):
    folder = tmp_path / "run"
    assert run(config(folder, 5, every=1, patience=1, lr=1e-9))["steps"] == 2
    assert run(config(folder, 6, every=1, patience=1, lr=1e-9))["steps"] == 4


@pytest.mark.slow
def test_the_batch_size_that_was_found_is_kept(tmp_path, config):
    folder = tmp_path / "run"
    run(config(folder, 1, batch_size="auto"))
    found = json.loads((folder / "batch_size.json").read_text())
    assert found["batch_size"] == 12
    (folder / "batch_size.json").write_text(json.dumps({**found, "batch_size": 3}))
    run(config(folder, 2, batch_size="auto"))
    assert json.loads((tmp_path / "run-2-steps" / "batch_size.json").read_text())["batch_size"] == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"steps": 2, "lr": 0.02}, r"Different are:\n  recipe.lr: 0.01 -> 0.02", id="recipe"),
        pytest.param({"steps": 1, "warmup_steps": 1}, r"  recipe.warmup_steps: 2 -> 1$", id="no longer"),
    ],
)
def test_what_is_not_only_longer_is_another_configuration(tmp_path, finished, config, change, message):
    with pytest.raises(ValueError, match=message):
        run(config(finished, **change))
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_stage_of_a_chain_does_not_grow_inside_it(tmp_path, finished, config):
    with owned(tmp_path), pytest.raises(ValueError, match=r"recipe.steps: 1 -> 2"):
        run(config(finished, 2))


def test_a_folder_of_ones_own_for_the_new_run(tmp_path, finished, config):
    asked = dataclasses.replace(config(tmp_path / "mine", 2), continues=str(finished))
    assert run(asked)["steps"] == 2
    inputs = json.loads((tmp_path / "mine" / "inputs.json").read_text())
    assert inputs["continues"] == digest(finished / "checkpoints" / "last.ckpt")
    assert run(config(tmp_path / "mine", 2))["steps"] == 2


def unfinished(folder):
    (folder / "metrics.json").unlink()


def damaged(folder):
    path = folder / "checkpoints" / "last.ckpt"
    path.write_bytes(path.read_bytes()[:-1000])


@pytest.mark.parametrize(
    ("spoil", "change", "error", "message"),
    [
        (unfinished, {}, ConfigError, r"^continues = .*last.ckpt is not the folder of a finished detection"),
        (damaged, {}, ValueError, r"last.ckpt: damaged: .*start from its weights, init=FILE$"),
        (None, {"steps": 1}, ConfigError, r"run is finished after 1 step; set recipe.steps above that$"),
        (None, {"lr": 0.5}, ValueError, r"init=FILE. Different are:\n  recipe.lr: 0.01 -> 0.5$"),
        (shutil.rmtree, {}, ConfigError, r"^continues = .*run is not the folder of a finished detection"),
    ],
)
def test_what_cannot_be_continued_is_refused_and_leaves_nothing(
    tmp_path, finished, config, spoil, change, error, message
):
    if spoil:
        spoil(finished)
    asked = config(tmp_path / "mine", **{"steps": 2, **change})
    with pytest.raises(error, match=message):
        run(dataclasses.replace(asked, continues=str(finished)))
    assert not (tmp_path / "mine").exists()


def test_other_labels_are_refused(tmp_path, finished, config, scenes):
    root = shutil.copytree(scenes.root, tmp_path / "scenes")
    path = root / scenes.train_annotations
    content = json.loads(path.read_text())
    content["annotations"][0]["bbox"][0] -= 0.5
    path.write_text(json.dumps(content))
    asked = config(finished, 2)
    asked = dataclasses.replace(asked, data=dataclasses.replace(scenes, root=str(root)))
    with pytest.raises(
        ValueError, match=r"another length only[^\n]*\n  data.train.sha256: .* \(images or labels"
    ):
        run(asked)
