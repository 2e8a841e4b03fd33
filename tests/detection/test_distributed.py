"""A detector trained by two processes: equal to one process, exactly resumed, started by its command."""

import dataclasses
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys

import pytest
import torch

from detection.model.heads import SecondStage
from detection.train import run
from detection.training.module import DetectionModule
from runtime.finite import NonFiniteError
from runtime.resume import LAST

STEPS = 6


@pytest.fixture
def config(small_config, backbone_file, scenes):
    """Returns a function that configures 6 steps on 4 square images each, with frozen statistics."""

    def make(folder, *, devices=1, **recipe):
        values = {"batch_size": 4, "steps": STEPS, "lr": 0.005, "ema_decay": 0.5} | recipe
        asked = small_config(folder, backbone_file, scenes, **values)
        # Few enough that every image yields them: losses are divided by what a process has sampled.
        asked.detector = dataclasses.replace(
            asked.detector, box_head=dataclasses.replace(asked.detector.box_head, batch_size_per_image=8)
        )
        # Of one size: an image is padded to the largest of its batch, which differs between processes.
        asked.data = dataclasses.replace(scenes, fixed_size=96)
        asked.trainer = dataclasses.replace(asked.trainer, devices=devices, checkpoint_seconds=None)
        return asked

    return make


def as_rank(rank, port, asked, number, step, ranks):
    """What torchrun does for one of two processes; `ranks` get the signal `number` in `step` (from 0)."""
    torch.set_num_threads(1)  # a forked process must not use the pool of threads that it lost
    own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0"}
    sizes = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "test"}
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    os.environ.update(own | sizes | place)
    training_step = DetectionModule.training_step

    def signalled_step(self, *args):
        if self.global_step == step and rank in ranks:
            if number is None:
                self.engine.rpn.head.cls_logits.bias.data.fill_(
                    torch.nan
                )  # no proposals, so no loss of DDP's
            else:
                os.kill(os.getpid(), number)
        return training_step(self, *args)

    DetectionModule.training_step = signalled_step
    try:
        run(asked)
    except KeyboardInterrupt:
        os._exit(130)
    except NonFiniteError:
        os._exit(1)
    os._exit(0)  # without pytest's own farewells


def run_two(asked, *, number=None, step=None, ranks=(0, 1)):
    """Exit codes of both. number: a signal, None for proposals that are not finite."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    processes = [
        fork.Process(target=as_rank, args=(rank, port, asked, number, step, ranks)) for rank in (0, 1)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=300)
        if process.is_alive():
            process.kill()
            process.join()
    return [process.exitcode for process in processes]


def checkpoint(folder):
    return torch.load(folder / "checkpoints" / LAST, weights_only=True)


def test_two_processes_equal_one_at_the_same_global_batch(tmp_path, config, monkeypatch):
    assert run_two(config(tmp_path / "two", devices=2, accumulate=2)) == [0, 0]
    counts, sample = [], SecondStage.sample

    def counted(self, *args):
        sampled = sample(self, *args)
        counts.extend(len(image.labels) for image in sampled)
        return sampled

    monkeypatch.setattr(SecondStage, "sample", counted)
    run(config(tmp_path / "one"))
    assert counts == [8] * 4 * STEPS  # else the comparison would be of other losses

    one, two = checkpoint(tmp_path / "one"), checkpoint(tmp_path / "two")
    assert one["global_step"] == two["global_step"] == STEPS
    moved = 0.0
    for part in ("state_dict", "current_model_state"):  # the average and the weights themselves
        for key, value in one[part].items():
            assert float((two[part][key].double() - value.double()).abs().max()) <= 1e-5, key
            moved = max(moved, float((one["state_dict"][key] - value).abs().max()))
    assert moved > 1e-3  # so that the tolerance means something
    one, two = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two"))
    assert two["metrics"] == pytest.approx(one["metrics"], abs=1e-3)
    one, two = (json.loads((tmp_path / name / "predictions.json").read_text()) for name in ("one", "two"))
    assert len(one) > 0
    assert [p["image_id"] for p in two] == [p["image_id"] for p in one]


@pytest.mark.slow
def test_accumulated_batches_equal_the_big_batch(tmp_path, config):
    for name, accumulate in (("big", 1), ("parts", 4)):
        run(config(tmp_path / name, accumulate=accumulate, steps=4))
    big, parts = (checkpoint(tmp_path / name)["state_dict"] for name in ("big", "parts"))
    assert max(float((parts[key].double() - big[key].double()).abs().max()) for key in big) <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_two_killed_and_continued_processes_equal_unbroken_ones(tmp_path, config, workers):
    straight, parts = (config(tmp_path / name, devices=2) for name in ("straight", "parts"))
    for asked in (straight, parts):
        asked.data = dataclasses.replace(asked.data, workers=workers)
        asked.validate_every_steps = 2
    assert run_two(straight) == [0, 0]
    assert run_two(parts, number=signal.SIGKILL, step=4) == [-signal.SIGKILL, -signal.SIGKILL]
    assert run_two(parts) == [0, 0]
    for name in ("detector.safetensors", "best.safetensors", "predictions.json", "metrics.json"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()


@pytest.mark.slow
def test_a_loss_that_is_not_finite_in_one_process_stops_both_and_names_its_images(tmp_path, config, scenes):
    assert run_two(config(tmp_path, devices=2), step=2, ranks=[1]) == [1, 130]
    report = json.loads((tmp_path / "non_finite.json").read_text())
    assert (report["step"], len(report["samples"])) == (3, 2)
    assert checkpoint(tmp_path)["global_step"] == 2


def test_a_batch_that_does_not_divide_is_refused(config, tmp_path):
    asked = config(tmp_path, devices=2)
    with pytest.raises(ValueError) as error:
        dataclasses.replace(asked, recipe=dataclasses.replace(asked.recipe, batch_size=6, accumulate=2))
    assert str(error.value) == (
        "recipe.batch_size = 6, must be a multiple of recipe.accumulate x trainer.devices x "
        "trainer.num_nodes = 2 x 2 x 1"
    )


def test_fewer_validation_images_than_processes_are_refused(config, tmp_path):
    asked = config(tmp_path / "run", devices=2)
    asked.data = dataclasses.replace(asked.data, val_limit=1)
    with pytest.raises(ValueError, match=r"val\.json: 1 image is fewer than the 2 processes"):
        run(asked)
    assert not (tmp_path / "run").exists()


def test_synchronised_norms_are_refused_where_there_are_none(config, tmp_path):
    asked = config(tmp_path / "run")
    asked.trainer = dataclasses.replace(asked.trainer, sync_batch_norm=True)
    with pytest.raises(ValueError, match="sync_batch_norm = true, but the backbone has no batch norm"):
        run(asked)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["the command itself", "torchrun"])
def test_the_command_trains_with_two_processes_in_one_folder(tmp_path, launcher, scenes, backbone_file):
    start = [sys.executable, "-m"]
    if launcher == "torchrun":
        start += ["torch.distributed.run", "--nproc-per-node", "2", "-m"]
    words = [
        *("data=scenes", f"data.root={scenes.root}", "data.train_scenes=12", "data.val_scenes=6"),
        *("data.min_sizes=[96]", "data.test_min_size=96", f"backbone.weights={backbone_file}", "logger=csv"),
        *("recipe.steps=2", "recipe.batch_size=4", "trainer.devices=2", "trainer.device=cpu"),
        *("trainer.threads=1", "run_dir=runs/detection/a", "detector.rpn.anchor_sizes=[16,32,64,96,128]"),
    ]
    done = subprocess.run(
        [*start, "detection", *words], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    names = {file.name for file in (tmp_path / "runs" / "detection" / "a").iterdir()}
    assert {"metrics.json", "detector.safetensors", "predictions.json", "metrics.csv", "log.txt"} <= names
    line = "4 images per step: 2 devices x 1 node x 1 accumulated batch of 2; learning rate 0.005"
    assert done.stderr.count(line) == 1
