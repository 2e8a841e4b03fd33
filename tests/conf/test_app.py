"""What a command leaves in the user's folder when it is refused."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from commands import run_here
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from conf import app

REPOSITORY = Path(__file__).resolve().parent.parent.parent


def refused(folder: Path, *words: str) -> str:
    """The message of a command that ends with 1, run in `folder`."""
    done = run_here(*words, cwd=folder)
    assert done.returncode == 1, done.stderr
    return done.stderr


@pytest.mark.parametrize("stage", ["classification", "detection"])
def test_an_evaluation_leaves_the_empty_folder_that_the_user_is_in(stage, tmp_path):
    message = refused(tmp_path, f"{stage}.evaluate", "weights=none.safetensors", "data.root=.")
    assert "none.safetensors: no such " in message
    assert list(tmp_path.iterdir()) == []


def test_a_refused_run_leaves_no_folder_but_the_users(tmp_path):
    words = ("data=digits", "recipe.batch_size=0", "run_dir=runs/a/b")
    assert "recipe.batch_size = 0, must be at least 1" in refused(tmp_path, "classification", *words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("word", "key"), [("run_dir", "run_dir"), ("hydra.sweep.dir", "hydra.sweep.dir")])
def test_a_folder_that_cannot_be_made_is_named(tmp_path, word, key):
    (tmp_path / "notes").write_text("")
    os.symlink("nowhere", tmp_path / "link")
    sweep = ["-m"] if word != "run_dir" else []
    for folder, reason in (
        ("notes", "file exists"),
        ("notes/a", "not a directory"),
        ("link", "file exists"),
        ("-", "- means standard output, expected the name of a folder to write"),
    ):
        message = refused(tmp_path, "classification", *sweep, "data=digits", f"{word}={folder}")
        assert message == f"{key} = {folder}: no folder can be made there ({reason}); choose another\n"


def test_a_bug_keeps_its_traceback(tmp_path, monkeypatch):
    monkeypatch.setattr("search.run.run", lambda config: 1 + None)
    with pytest.raises(TypeError, match="unsupported operand"):  # not a message that blames seed=3
        run_here("search", "data=digits", "seed=3", cwd=tmp_path)


SLEEPY = """
import os, signal, sys
from classification.module import ClassificationModule
step = ClassificationModule.training_step
def signalled(self, *args):
    os.kill(os.getpid(), signal.SIGTERM)
    return step(self, *args)
ClassificationModule.training_step = signalled
import runpy
runpy.run_module("classification", run_name="__main__", alter_sys=True)
"""


def test_an_interrupted_run_says_the_command_that_continues_it(tmp_path):
    words = [
        "data=digits",
        "data.train_limit=64",
        "data.test_limit=16",
        "backbone=nasnet_a_cifar",
        "logger=none",
    ]
    words += ["backbone.cells_per_stage=1", "backbone.filters=4", "recipe.epochs=1", "recipe.batch_size=8"]
    words += ["backbone.image_size=16", "backbone.stem_filters=4", "trainer.device=cpu", "trainer.threads=1"]
    variables = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    (tmp_path / "sleepy.py").write_text(SLEEPY)
    done = subprocess.run(
        [sys.executable, "sleepy.py", *words, "run_dir='a (1)'"],
        cwd=tmp_path,
        env=variables,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 130, done.stderr
    assert (tmp_path / "a (1)" / "checkpoints" / "last.ckpt").exists()
    assert "Interrupted. This continues: python " in done.stderr.splitlines()[-1]
    assert done.stderr.splitlines()[-1] in (tmp_path / "a (1)" / "log.txt").read_text()


@pytest.mark.parametrize(
    ("folder", "word"),
    [
        ("runs/a-1", "run_dir=runs/a-1"),
        ("my runs (1)", "'run_dir=\"my runs (1)\"'"),
        ("a=b,c", "'run_dir=\"a=b,c\"'"),
    ],
)
def test_the_command_that_continues_names_the_folder_as_hydra_and_a_shell_read_it(monkeypatch, folder, word):
    monkeypatch.setattr(sys, "argv", ["classification", "seed=1"])
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "classification", "seed=1"])
    said = app._how_to_continue(OmegaConf.create({"run_dir": folder}), sweep=False)
    assert said == f"Interrupted. This continues: python -m classification seed=1 {word}"
    (override,) = OverridesParser.create().parse_overrides([shlex.split(said)[-1]])
    assert override.value() == folder
    monkeypatch.setattr(sys, "argv", ["classification", "seed=1", f"run_dir={folder}"])
    assert app._how_to_continue(OmegaConf.create({"run_dir": folder}), sweep=False).endswith("seed=1")


@pytest.mark.slow
def test_a_first_run_tells_nothing_of_fonts(tmp_path):
    """matplotlib, which torchmetrics imports, looks for fonts once and says so."""
    words = ["weights=none.safetensors", "data=coco", "data.root=."]
    done = subprocess.run(
        [sys.executable, "-m", "detection.evaluate", *words],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "MPLCONFIGDIR": str(tmp_path / "fonts")},
        capture_output=True,
        text=True,
    )
    assert list((tmp_path / "fonts").glob("fontlist*"))
    assert done.stderr == "none.safetensors: no such detector file\n"
