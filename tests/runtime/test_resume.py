"""Callbacks on a network of one layer; exact resume of real training is in tests/classification."""

import errno
import multiprocessing
import os
import random
import resource
import signal
import sys
import tempfile
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from torch import nn

from runtime.config import TrainerConfig
from runtime.folder import RunFolder
from runtime.loading import ResumableLoader
from runtime.resume import LAST, PREVIOUS
from runtime.trainer import build_trainer, check_machine, last_checkpoint


class Draws:
    """Sample i is the number i."""

    def __len__(self):
        return 6

    def __getitem__(self, sample):
        return torch.tensor([float(sample[1])])


class Line(L.LightningModule):
    """Draws from every global generator in each step."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.drawn = []

    def training_step(self, batch, batch_idx):
        self.drawn.append((float(torch.rand(())), float(np.random.rand()), random.random()))
        return self.layer(batch).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.001)


def fit(folder: Path, module, steps, accumulate=1, **trainer):
    run = RunFolder(folder)
    config = TrainerConfig(device="cpu", checkpoint_seconds=None, **trainer)
    loader = ResumableLoader(Draws(), 2, seed=0, shuffle=True)
    checkpoint = last_checkpoint(run, module)
    lightning = build_trainer(config, run, [], [], max_steps=steps, accumulate=accumulate)
    lightning.fit(module, loader, ckpt_path=checkpoint, weights_only=True)
    return module


def test_every_global_generator_goes_on_where_it_was(tmp_path):
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    straight = fit(tmp_path / "straight", Line(), steps=5).drawn
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    first = fit(tmp_path / "parts", Line(), steps=2, checkpoint_steps=1).drawn
    torch.manual_seed(9), np.random.seed(9), random.seed(9)
    assert first + fit(tmp_path / "parts", Line(), steps=5).drawn == straight


def test_checkpoints_come_by_step_and_leave_no_other_file(tmp_path):
    saved = []

    class Watched(Line):
        def on_save_checkpoint(self, checkpoint):
            saved.append(checkpoint["global_step"])

    fit(tmp_path, Watched(), steps=11, checkpoint_steps=2)
    folder = tmp_path / "checkpoints"
    # Due after every second step, but an epoch's last of three batches waits for the next; and after all.
    assert saved == [2, 4, 7, 10, 11]
    assert torch.load(folder / LAST, weights_only=True)["global_step"] == 11
    assert torch.load(folder / PREVIOUS, weights_only=True)["global_step"] == 10
    assert {path.name for path in folder.iterdir()} == {LAST, PREVIOUS}


class Signalled(Line):
    """Receives `signals` in the middle of batch `at`."""

    def __init__(self, at, signals):
        super().__init__()
        self.at, self.signals = at, signals

    def training_step(self, batch, batch_idx):
        if len(self.drawn) + 1 == self.at:
            for number in self.signals:
                os.kill(os.getpid(), number)
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize(
    ("number", "again"),
    [
        (signal.SIGINT, "Press Ctrl-C again to stop immediately."),
        (signal.SIGTERM, "A second SIGTERM stops immediately."),
    ],
)
def test_an_interrupted_training_ends_with_a_checkpoint_of_the_step_that_was_running(
    tmp_path, number, again, capfd
):
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    module = Signalled(2, [number])
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, module, steps=9)
    assert len(module.drawn) == 2
    assert torch.load(tmp_path / "checkpoints" / LAST, weights_only=True)["global_step"] == 2
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert f"\nStopping after this step and its checkpoint. {again}\n" in capfd.readouterr().err


def test_an_interrupt_in_an_epochs_last_step_takes_effect_after_the_next(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, Signalled(3, [signal.SIGINT]), steps=9)
    assert torch.load(tmp_path / "checkpoints" / LAST, weights_only=True)["global_step"] == 4


def test_an_interrupt_waits_for_the_end_of_an_accumulated_step(tmp_path):
    module = Signalled(4, [signal.SIGINT])  # a step has two batches, an epoch's last one the third alone
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, module, steps=9, accumulate=2)
    assert len(module.drawn) == 5
    assert torch.load(tmp_path / "checkpoints" / LAST, weights_only=True)["global_step"] == 3


def test_a_second_interrupt_stops_at_once(tmp_path):
    module = Signalled(2, [signal.SIGINT, signal.SIGINT])
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, module, steps=9, checkpoint_steps=1)
    assert len(module.drawn) == 1
    assert torch.load(tmp_path / "checkpoints" / LAST, weights_only=True)["global_step"] == 1


def test_a_failed_write_leaves_the_last_good_checkpoint(tmp_path, monkeypatch):
    fit(tmp_path, Line(), steps=1, checkpoint_steps=1)
    good = (tmp_path / "checkpoints" / LAST).read_bytes()

    def full_disk(checkpoint, file):
        file.write(good[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match=rf"No space left on device: '{tmp_path}/checkpoints/{LAST}'"):
        fit(tmp_path, Line(), steps=2, checkpoint_steps=1)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [LAST]
    assert (tmp_path / "checkpoints" / LAST).read_bytes() == good


def train_with_files_of_at_most(folder, size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))  # a write beyond it fails, as on a full disk
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        fit(folder, Line(), steps=3, checkpoint_steps=1)
    except OSError as error:
        sys.exit(
            28 if error.errno == errno.EFBIG and error.filename == str(folder / "checkpoints" / LAST) else 1
        )


def test_a_disk_that_runs_full_leaves_the_last_good_checkpoint(tmp_path):
    fit(tmp_path, Line(), steps=1, checkpoint_steps=1)
    path = tmp_path / "checkpoints" / LAST
    good = path.read_bytes()
    process = multiprocessing.get_context("fork").Process(
        target=train_with_files_of_at_most, args=(tmp_path, len(good) // 2)
    )
    process.start()
    process.join(timeout=60)
    assert process.exitcode == 28
    assert [file.name for file in path.parent.iterdir()] == [LAST]
    assert path.read_bytes() == good
    assert fit(tmp_path, Line(), steps=3).global_step == 3  # and it can be continued


def test_a_checkpoint_passes_through_no_other_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "absent"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / f".{LAST}.part").write_bytes(b"of a process that was killed")
    fit(tmp_path, Line(), steps=1, checkpoint_steps=1)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [LAST]


def spoiled(content, how):
    middle = content.index(b"layer.weight") + 12
    return {
        "empty": b"",
        "cut": content[: len(content) // 2],
        "zeros": bytes(len(content)),
        "text": b"not a checkpoint\n",
        "a bit": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
    }[how]


@pytest.mark.parametrize("how", ["empty", "cut", "zeros", "text", "a bit"])
def test_the_checkpoint_before_a_damaged_one_is_continued_from(tmp_path, caplog, how):
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    straight = fit(tmp_path / "straight", Line(), steps=8).drawn
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    fit(tmp_path / "run", Line(), steps=5, checkpoint_steps=1)
    last, previous = (tmp_path / "run" / "checkpoints" / name for name in (LAST, PREVIOUS))
    damaged = spoiled(last.read_bytes(), how)
    last.write_bytes(damaged)
    good = previous.read_bytes()

    class Dying(Line):
        def training_step(self, batch, batch_idx):
            raise SystemError("before the first checkpoint")

    with pytest.raises(SystemError):
        fit(tmp_path / "run", Dying(), steps=8)
    assert (last.read_bytes(), previous.read_bytes()) == (damaged, good)  # nothing is deleted first
    caplog.clear()
    with caplog.at_level("INFO"):
        again = fit(tmp_path / "run", Line(), steps=8, checkpoint_steps=5).drawn
    assert again == straight[4:]
    assert f"{last}: damaged" in caplog.text
    assert f"continuing from {previous}" in caplog.text
    assert "continuing after step 4 of 8" in caplog.text
    assert torch.load(last, weights_only=True)["global_step"] == 8


def test_a_damaged_checkpoint_does_not_become_the_one_before(tmp_path):
    fit(tmp_path, Line(), steps=5, checkpoint_steps=1)
    last, previous = (tmp_path / "checkpoints" / name for name in (LAST, PREVIOUS))
    last.write_bytes(b"")
    fit(tmp_path, Line(), steps=7)  # one checkpoint, at the end
    assert torch.load(previous, weights_only=True)["global_step"] == 4
    assert torch.load(last, weights_only=True)["global_step"] == 7


def test_checkpoints_that_are_all_damaged_are_named_and_left(tmp_path):
    fit(tmp_path, Line(), steps=4, checkpoint_steps=1)
    last, previous = (tmp_path / "checkpoints" / name for name in (LAST, PREVIOUS))
    last.write_bytes(b"")
    previous.unlink()
    os.mkfifo(previous)
    with pytest.raises(ValueError) as error:
        fit(tmp_path, Line(), steps=5)
    assert f"{last}: damaged: " in str(error.value)
    assert f"{previous}: expected a checkpoint file, but this is a FIFO" in str(error.value)
    assert f"restore one from a copy, or delete {last.parent} to train from the beginning" in str(error.value)
    assert last.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer_states": []}, "not a checkpoint of a training run"),
        ({"loops": {}}, "not a checkpoint of a training run"),
        ({"state_dict": {}}, "not a checkpoint of a training run"),
        (
            {"state_dict": {"layer.weight": torch.zeros(1, 1), "layer.bias": torch.zeros(3)}},
            "not a checkpoint of this network: layer.bias is missing or of another shape",
        ),
        (
            {"state_dict": {"layer.weight": torch.zeros(1, 1)}},
            "not a checkpoint of this network: layer.bias is missing or of another shape",
        ),
    ],
)
def test_a_whole_checkpoint_of_something_else_is_passed_over(tmp_path, caplog, change, message):
    fit(tmp_path, Line(), steps=4, checkpoint_steps=1)
    last, previous = (tmp_path / "checkpoints" / name for name in (LAST, PREVIOUS))
    torch.save(torch.load(last, weights_only=True) | change, last)
    fit(tmp_path, Line(), steps=6)
    assert f"{last}: {message}; continuing from {previous}" in caplog.text
    assert torch.load(last, weights_only=True)["global_step"] == 6


class Thing:
    pass


def test_a_checkpoint_with_foreign_objects_is_not_unpickled(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    torch.save({"state_dict": Thing(), "global_step": 1, "loops": {}}, tmp_path / "checkpoints" / LAST)
    with pytest.raises(ValueError, match=rf"{LAST}: not a checkpoint of this project"):
        fit(tmp_path, Line(), steps=5)


def test_an_unknown_compiler_is_refused_by_name():
    config = TrainerConfig(compile=True, compile_backend="gcc")
    with pytest.raises(ValueError, match=r"trainer\.compile_backend = 'gcc', known here are .*inductor"):
        check_machine(config)


def test_an_end_is_asked_for(tmp_path):
    with pytest.raises(ValueError, match="neither max_epochs nor max_steps"):
        build_trainer(TrainerConfig(device="cpu"), RunFolder(tmp_path), [], [])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"devices": -1}, "devices = -1, must be at least 1"),
        ({"num_nodes": 0}, "num_nodes = 0, must be at least 1"),
        ({"device": "tpu"}, "device = 'tpu', expected auto, cpu, cuda or cuda:<number>"),
        ({"precision": "16"}, "precision = '16', expected one of 32-true, bf16-mixed, 16-mixed"),
        (
            {"activation_memory": "none"},
            "activation_memory = 'none', expected one of keep, lean, checkpoint",
        ),
        (
            {"activation_memory": "checkpoint", "compile": True},
            "compile = true does not go with activation_memory = checkpoint; use keep or lean",
        ),
        ({"threads": 0}, "threads = 0, must be at least 1, or null"),
        ({"checkpoint_seconds": -1.0}, "checkpoint_seconds = -1.0, must be at least 0, or null"),
    ],
)
def test_bad_trainer_values_are_refused_by_name(values, message):
    with pytest.raises(ValueError) as error:
        TrainerConfig(**values)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"device": "cuda"},
            "trainer.device = 'cuda', but there is no CUDA device here; expected auto, cpu, "
            "cuda or cuda:<number>",
        ),
        ({"precision": "16-mixed"}, "trainer.precision = 16-mixed needs CUDA; use 32-true or bf16-mixed"),
    ],
)
def test_what_the_machine_lacks_is_said_when_a_run_takes_it(monkeypatch, values, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = TrainerConfig(**values)
    with pytest.raises(ValueError) as error:
        check_machine(config)
    assert str(error.value) == message
