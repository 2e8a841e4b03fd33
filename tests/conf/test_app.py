"""What a command leaves in the user's folder when it is refused."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent.parent


def refused(folder: Path, *words: str) -> str:
    """The message of a command that ends with 1, run in `folder`."""
    variables = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", *words]
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True)
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
