"""A finished classifier that is trained for more epochs: a new run, and the old one is as it was."""

import torch
from checkpoints import checkpoint
from small_training import STEPS_PER_EPOCH, config

from classification.train import run
from runtime.digests import digest

CONSTANT = {"schedule": "exponential", "lr_decay": 1.0, "drop_path_keep": 1.0}


def files(folder):
    return {str(path.relative_to(folder)): digest(path) for path in folder.rglob("*") if path.is_file()}


def test_at_a_constant_rate_it_is_bit_for_bit_the_run_that_was_long_from_the_start(
    tmp_path, digit_folders, caplog
):
    old, straight, new = tmp_path / "run", tmp_path / "straight", tmp_path / "run-3-epochs"
    run(config(old, digit_folders, recipe={"epochs": 2, **CONSTANT}))
    before = files(old)
    run(config(straight, digit_folders, recipe={"epochs": 3, **CONSTANT}))
    with caplog.at_level("INFO"):
        done = run(config(old, digit_folders, recipe={"epochs": 3, **CONSTANT}))
    told = f"{old} is finished and stays as it is; a new run goes on from its last state to epoch 3: {new}"
    assert told in caplog.messages
    assert f"continuing after step {2 * STEPS_PER_EPOCH} of {3 * STEPS_PER_EPOCH}" in caplog.messages
    assert files(old) == before
    assert done["best"]["step"] == 3 * STEPS_PER_EPOCH
    ours, theirs = checkpoint(new), checkpoint(straight)
    assert {key for key in theirs if ours.get(key) != theirs[key]} <= {
        "/callbacks/BestFigure/top1",
        "/callbacks/BestFigure/step",
    }
    assert (new / "backbone.safetensors").read_bytes() == (straight / "backbone.safetensors").read_bytes()


def test_the_cosine_is_that_of_the_new_length_from_the_first_step(tmp_path, digit_folders, monkeypatch):
    """The old one ended at a rate of 0."""
    rates, step = [], torch.optim.SGD.step

    def recorded(self, *args, **kwargs):
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.SGD, "step", recorded)
    run(config(tmp_path / "straight", digit_folders, recipe={"epochs": 2}))
    straight, rates[:] = rates[:], []
    run(config(tmp_path / "run", digit_folders, recipe={"epochs": 1}))
    rates.clear()
    run(config(tmp_path / "run", digit_folders, recipe={"epochs": 2}))
    assert rates == straight[STEPS_PER_EPOCH:]
    assert all(rates)
