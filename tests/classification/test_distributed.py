"""Trainings by two processes: equal to one process, exactly resumed, started in each documented way."""

import json
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys

import pytest
import torch
from genotypes import TWO_BLOCKS

from backbones.config import BackboneConfig
from classification.config import ClassificationConfig, ImageDataConfig, RecipeConfig
from classification.mistakes import read_mistakes
from classification.module import ClassificationModule
from classification.train import run
from runtime.config import LoggerConfig, TrainerConfig
from runtime.finite import NonFiniteError
from runtime.resume import LAST

CALM = {"drop_path_keep": 1.0, "dropout": 0.0, "ema_decay": None}


def config(run_dir, root, *, devices=2, recipe=None, workers=0, **trainer):
    """30 digits of 16 px; in each epoch two steps of 12 and, in evaluation, 12 images in batches of 5."""
    return ClassificationConfig(
        run_dir=str(run_dir),
        data=ImageDataConfig(
            name="imagefolder",
            root=str(root),
            resident=not workers,
            workers=workers,
            crop_padding=2,
            flip=False,
        ),
        backbone=BackboneConfig(
            name=str(TWO_BLOCKS), stem="cifar", cells_per_stage=1, filters=4, stem_filters=4, image_size=16
        ),
        recipe=RecipeConfig(
            **{
                "epochs": 5,
                "batch_size": 12,
                "lr": 0.002,
                "drop_path_keep": 0.6,
                "dropout": 0.2,
                "ema_decay": 0.9,
            }
            | (recipe or {})
        ),
        trainer=TrainerConfig(
            device="cpu",
            devices=devices,
            threads=1,
            checkpoint_seconds=None,
            checkpoint_steps=1,
            **trainer,
        ),
        logger=LoggerConfig(name="csv"),
        eval_batch_size=5,
    )


def freeze_norms(self, *_):
    for module in self.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()


def as_rank(rank, port, asked, norms_in_training, number, step, ranks):
    """What torchrun does for one of two processes; `ranks` get the signal `number` in `step` (from 1)."""
    torch.set_num_threads(1)  # a forked process must not use the pool of threads that it lost
    own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0"}
    sizes = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "test"}
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    os.environ.update(own | sizes | place)
    if not norms_in_training:
        ClassificationModule.on_train_batch_start = freeze_norms
    begun, training_step = 0, ClassificationModule.training_step

    def signalled_step(self, *args):
        nonlocal begun
        begun += 1
        if begun == step and rank in ranks:
            if number is None:
                return training_step(self, *args) * float("nan")
            os.kill(os.getpid(), number)
        return training_step(self, *args)

    ClassificationModule.training_step = signalled_step
    try:
        run(asked)
    except KeyboardInterrupt:
        os._exit(130)
    except NonFiniteError:
        os._exit(1)
    os._exit(0)  # without pytest's own farewells


def run_two(asked, *, norms_in_training=True, number=None, step=None, ranks=(0, 1)):
    """Exit codes of both. number: a signal, None for a loss that is not finite."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    options = (port, asked, norms_in_training, number, step, ranks)
    processes = [fork.Process(target=as_rank, args=(rank, *options)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=240)
        if process.is_alive():
            process.kill()
            process.join()
    return [process.exitcode for process in processes]


def checkpoint(folder):
    return torch.load(folder / "checkpoints" / LAST, weights_only=True)


def test_two_processes_equal_one_at_the_same_global_batch(tmp_path, digit_folders, monkeypatch):
    calm = {**CALM, "accumulate": 2}
    assert run_two(config(tmp_path / "two", digit_folders, recipe=calm), norms_in_training=False) == [0, 0]
    monkeypatch.setattr(ClassificationModule, "on_train_batch_start", freeze_norms)
    run(config(tmp_path / "one", digit_folders, devices=1, recipe=calm))

    one, two = checkpoint(tmp_path / "one"), checkpoint(tmp_path / "two")
    assert one["global_step"] == two["global_step"] == 10
    for key, value in one["state_dict"].items():
        assert float((two["state_dict"][key].double() - value.double()).abs().max()) <= 1e-5
    one, two = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two"))
    assert two["per_class"] == one["per_class"]
    assert two["metrics"] == pytest.approx(one["metrics"], rel=1e-5)
    one, two = (read_mistakes(tmp_path / name / "mistakes.json") for name in ("one", "two"))
    assert two.confusion == one.confusion
    assert sum(images for _, _, images in two.confusion) == 12
    one, two = ((tmp_path / name / "metrics.csv").read_text().splitlines() for name in ("one", "two"))
    assert two[0] == one[0]
    assert [line.split(",")[0] for line in two] == [line.split(",")[0] for line in one]
    column = one[0].split(",").index("test/top1")  # in training, over the shares of both: no image twice
    assert [line.split(",")[column] for line in two] == [line.split(",")[column] for line in one]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_two_killed_and_continued_processes_equal_unbroken_ones(tmp_path, digit_folders, workers):
    straight, parts = (
        config(tmp_path / name, digit_folders, recipe={"mixup_alpha": 0.2}, workers=workers)
        for name in ("straight", "parts")
    )
    assert run_two(straight) == [0, 0]
    assert run_two(parts, number=signal.SIGKILL, step=6) == [-signal.SIGKILL, -signal.SIGKILL]
    assert run_two(parts) == [0, 0]
    for name in ("backbone.safetensors", "metrics.json"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_after_the_step(tmp_path, digit_folders):
    asked = config(tmp_path, digit_folders)
    assert run_two(asked, number=signal.SIGTERM, step=3, ranks=[1]) == [130, 130]
    assert checkpoint(tmp_path)["global_step"] == 3


@pytest.mark.slow
def test_a_loss_that_is_not_finite_in_one_process_stops_both_and_names_its_images(tmp_path, digit_folders):
    asked = config(tmp_path, digit_folders, workers=1)
    assert run_two(asked, step=4, ranks=[1]) == [1, 130]
    report = json.loads((tmp_path / "non_finite.json").read_text())
    assert (report["step"], len(report["samples"])) == (4, 6)
    assert all(name.endswith(".png") for name in report["samples"])
    assert checkpoint(tmp_path)["global_step"] == 3


def test_a_batch_that_does_not_divide_is_refused(digit_folders):
    with pytest.raises(ValueError) as error:
        config("unused", digit_folders, recipe={"batch_size": 10, "accumulate": 5}, devices=4)
    assert str(error.value) == (
        "recipe.batch_size = 10, must be a multiple of recipe.accumulate x trainer.devices x "
        "trainer.num_nodes = 5 x 4 x 1"
    )


def test_a_single_image_for_each_backward_pass_cannot_be_mixed(digit_folders):
    with pytest.raises(ValueError, match="= 8 leaves 1 image for each backward pass; mixup and cutmix"):
        config(
            "unused", digit_folders, recipe={"batch_size": 8, "accumulate": 2, "cutmix_alpha": 1.0}, devices=4
        )


@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        (
            {"devices": 3},
            "torchrun started 2 processes, but trainer.devices = 3 and trainer.num_nodes = 1 ask for 3",
        ),
        ({"sync_batch_norm": True}, "trainer.sync_batch_norm needs CUDA devices; leave it false on a CPU"),
    ],
)
def test_what_does_not_fit_to_the_launcher_or_machine_is_refused(
    tmp_path, digit_folders, monkeypatch, trainer, message
):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError) as error:
        run(config(tmp_path / "run", digit_folders, **trainer))
    assert str(error.value) == message
    assert not (tmp_path / "run").exists()


def test_detection_refuses_what_only_the_classifier_knows():
    from detection.training.config import DetectionConfig

    with pytest.raises(ValueError) as error:
        DetectionConfig(
            run_dir="unused", backbone=None, data=None, detector=None, trainer=TrainerConfig(compile=True)
        )
    assert str(error.value) == "detection does not support trainer.compile = True yet"


COMMAND = [
    *("data=digits", "recipe.epochs=2", "recipe.batch_size=600", "logger=csv", "trainer.threads=1"),
    *("backbone.cells_per_stage=1", "backbone.filters=4", "backbone.stem_filters=4", "backbone.image_size=8"),
    *("trainer.device=cpu", "trainer.devices=2", "trainer.checkpoint_steps=1"),
]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["the command itself", "torchrun"])
def test_the_command_trains_with_two_processes_in_one_folder(tmp_path, launcher):
    start = [sys.executable, "-m"]
    if launcher == "torchrun":
        start += ["torch.distributed.run", "--nproc-per-node", "2", "-m"]
    named = [] if launcher == "the command itself" else ["run_dir=runs/classification/a"]
    done = subprocess.run(
        [*start, "classification", *COMMAND, *named],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs" / "classification").iterdir()
    assert {"metrics.json", "backbone.safetensors", "metrics.csv", "log.txt"} <= {
        f.name for f in folder.iterdir()
    }
    assert done.stderr.count("600 images per step: 2 devices x 1 node x 1 accumulated batch of 300") == 1
    assert len(re.findall(r"^classification: finished after step \d+: top1 ", done.stderr, re.M)) == 1


@pytest.mark.gpu
def test_synchronised_norms_train_on_gpus(tmp_path):
    devices = min(2, torch.cuda.device_count())
    options = [f"trainer.devices={devices}", "trainer.device=cuda", "trainer.sync_batch_norm=true"]
    command = [sys.executable, "-m", "classification", *COMMAND, *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"^classification: finished after step \d+: top1 ", done.stderr, re.M)) == 1
