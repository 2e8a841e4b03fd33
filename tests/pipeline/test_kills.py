"""The chain killed at random instants and continued equals the unbroken one; it has one owner."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from checkpoints import checkpoint

from search.ledger.reader import read_children

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}
# Loader workers in each stage that can have them; a checkpoint after each step.
WORDS = [
    *("experiment=smoke", "run_dir=run", "logger=csv", "detection.data.workers=2"),
    *("classification.trainer.checkpoint_steps=1", "detection.trainer.checkpoint_steps=1"),
]


def start(cwd, *words):
    """`python -m pipeline` in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline", *WORDS, *words],
        cwd=cwd,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(cwd, *words):
    process = start(cwd, *words)
    _, told = process.communicate(timeout=600)
    assert process.returncode == 0, told
    return told


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """Folder of a chain that was not killed, and its seconds."""
    folder, begun = tmp_path_factory.mktemp("unbroken"), time.monotonic()
    finish(folder)
    return folder / "run", time.monotonic() - begun


def products(run):
    """What a chain is for, without what tells of times and places."""
    files = ("search/genotype.json", "classification/backbone.safetensors", "detection/detector.safetensors")
    found = {name: (run / name).read_bytes() for name in (*files, "detection/predictions.json")}
    for stage in ("search", "classification", "detection"):
        found[stage] = json.loads((run / stage / "metrics.json").read_text())
    for stage in ("classification", "detection"):
        found[f"{stage}, checkpoint"] = checkpoint(run / stage)
    rows = read_children(run / "search" / "search.sqlite")
    return found | {"children": [(row.number, row.cell_key, row.reward) for row in rows]}


def group_ends(group, seconds=30):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def running(folder, seconds):
    """A chain that has run for so long; for half as long where it ended before, on a machine less busy than
    when the unbroken one was timed."""
    process = start(folder)
    try:
        process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        return process
    shutil.rmtree(folder / "run")
    return running(folder, seconds / 2)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(20))
def test_a_chain_killed_at_random_instants_and_continued_equals_the_unbroken_one(unbroken, tmp_path, number):
    """Even numbers: kill -9 of the first process alone. Odd ones: SIGTERM to all of the group."""
    run, seconds = unbroken
    draw = random.Random(number)
    for _ in range(2):
        process = running(tmp_path, draw.uniform(0.05, 0.6) * seconds)
        if number % 2:
            os.killpg(process.pid, signal.SIGTERM)
            _, told = process.communicate(timeout=60)
            # Before the command begins SIGTERM just ends Python. Where KeyboardInterrupt passes through an
            # exec(), such as that of a dataclass being made, Python ends by SIGINT whatever the exit code.
            assert process.returncode in (130, -signal.SIGINT, -signal.SIGTERM), told
            if process.returncode != -signal.SIGTERM:
                assert f"Interrupted. This continues: python -m pipeline {' '.join(WORDS)}" in told
            assert "Traceback" not in told
        else:
            process.kill()
            process.communicate(timeout=60)
        assert group_ends(process.pid)
    finish(tmp_path)
    assert products(tmp_path / "run") == products(run)
    left = [
        path.name for path in (tmp_path / "run").rglob("*") if re.search(r"\.part$|\.lock$|\.new$", path.name)
    ]
    assert left == []


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["", "search", "classification", "detection"])
def test_a_second_process_on_a_chains_folders_is_refused_at_once(tmp_path, stage):
    first = start(tmp_path)
    while not (tmp_path / "run" / "detection" / "owner.lock").exists():
        assert first.poll() is None, first.stderr.read()
        time.sleep(0.1)
    os.kill(
        first.pid, signal.SIGSTOP
    )  # so that it is still there, however long the second one takes to start
    try:
        # Alone, a stage's other keys do not matter: the folder's owner is asked first.
        alone = {
            "search": ["search", "data=digits"],
            "classification": ["classification", "data=digits", "backbone=nasnet_a_cifar"],
            "detection": ["detection", "data=scenes", "backbone.name=nasnet_a_mobile"],
        }
        words = [*alone[stage], f"run_dir=run/{stage}", "logger=csv"] if stage else ["pipeline", *WORDS]
        second = subprocess.run(
            [sys.executable, "-m", *words], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True
        )
        assert second.returncode == 1
        words = rf"/run(/{stage})? is in use by process {first.pid} on \S+, started 20\d\d-.*; wait until it "
        assert re.search(words, second.stderr), second.stderr
    finally:
        os.kill(first.pid, signal.SIGCONT)
        _, told = first.communicate(timeout=600)
    assert first.returncode == 0, told
