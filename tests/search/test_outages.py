"""What a search does where it cannot write, and how it continues when it can again."""

import dataclasses
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import toy_search
from fault_points import exit_code, fork, group_ends, in_fork
from mounts import mount_memory, mount_read_only, own_mounts, skip_without_mounts
from toy_search import DIGITS, TINY, ScrambledConfig, toy_config

from runtime.owner import FolderInUseError
from search.children.images import ChildImages
from search.children.training import train_child
from search.config import BudgetConfig
from search.ledger.digest import digest
from search.ledger.reader import LEDGER, read_children
from search.messages import Failure, SearchPaused
from search.run import run
from search.strategies.config import RandomConfig

CHILDREN = 30


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The digest of a search that nothing befell."""
    folder = tmp_path_factory.mktemp("unbroken")
    run(toy_config(folder, CHILDREN))
    return digest(folder / LEDGER)


def with_own_mounts(tmp_path, function):
    log = tmp_path / "log"
    skip_without_mounts(log)

    def body():
        own_mounts()
        function()

    assert in_fork(body, log) == 0, log.read_text()


@pytest.mark.parametrize("kilobytes", [8, 64, 1200])
def test_a_full_disk_is_named_and_with_more_room_the_search_continues(tmp_path, whole, kilobytes):
    disk = tmp_path / "disk"
    disk.mkdir()

    def body():
        mount_memory(disk, kilobytes << 10)
        with pytest.raises(OSError, match=f"{disk}/run") as caught:
            run(toy_config(disk / "run", CHILDREN))
        assert re.search("disk is full|No space left|disk I/O error", str(caught.value))
        mount_memory(disk, 64 << 20, again=True)
        run(toy_config(disk / "run", CHILDREN))
        assert digest(disk / "run" / LEDGER) == whole

    with_own_mounts(tmp_path, body)


def test_a_folder_that_became_read_only_is_named_and_the_search_continues_elsewhere_or_later(tmp_path, whole):
    run_dir = tmp_path / "run"
    run(toy_config(run_dir, 7))

    def body():
        mount_read_only(run_dir)
        with pytest.raises(OSError, match=rf"{run_dir}"):
            run(toy_config(run_dir, CHILDREN))

    with_own_mounts(tmp_path, body)
    run(toy_config(run_dir, CHILDREN))
    assert digest(run_dir / LEDGER) == whole


class Waiting(toy_search.Favourite):
    """A child waits as long as there is a file `flag`, and says so in `flag`.seen."""

    def __init__(self, child, flag):
        super().__init__()
        self._child, self._flag = child, Path(flag)

    def __call__(self, genotype, task):
        if task.proposal.number == self._child and self._flag.exists():
            Path(f"{self._flag}.seen").touch()
            time.sleep(600)
        return super().__call__(genotype, task)


def seen(flag, seconds=120):
    """Waits until the child waits; False where it never does."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if Path(f"{flag}.seen").exists():
            return True
        time.sleep(0.02)
    return False


def test_a_second_driver_is_refused_while_the_first_one_lives(tmp_path, whole):
    flag = tmp_path / "flag"
    flag.touch()
    target = {"_target_": f"{__name__}.Waiting", "child": 5, "flag": str(flag)}
    config = toy_config(tmp_path / "run", CHILDREN, evaluator=target)
    process = fork(lambda: run(config), tmp_path / "log")
    assert seen(flag), (tmp_path / "log").read_text()
    with pytest.raises(FolderInUseError, match=f"in use by process {process} on "):
        run(config)
    assert len([row for row in read_children(tmp_path / "run" / LEDGER) if row.status == "done"]) == 5
    os.kill(process, signal.SIGKILL)
    assert exit_code(process) == -9
    flag.unlink()
    run(config)
    assert digest(tmp_path / "run" / LEDGER) == whole


@pytest.mark.slow
def test_sigterm_to_the_process_group_of_the_command_ends_it_cleanly(tmp_path):
    flag = tmp_path / "flag"
    flag.touch()
    target = f"evaluator={{_target_: test_outages.Waiting, child: 5, flag: {flag}}}"
    words = [target, "run_dir=run", "space.blocks=1", "budget.children=12", "window=4", "logger=none"]
    command = [sys.executable, "-m", "search", *words]
    here = Path(__file__).parent
    paths = [str(here.parents[1]), str(here), str(here.parent / "support")]
    settings = {
        "cwd": tmp_path,
        "env": os.environ | {"PYTHONPATH": ":".join(paths)},
        "stderr": subprocess.PIPE,
        "text": True,
    }
    process = subprocess.Popen(command, start_new_session=True, **settings)
    assert seen(flag)
    os.killpg(process.pid, signal.SIGTERM)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert "Interrupted. This continues: python -m search 'evaluator={_target_: test_outages.Waiting" in told
    assert "Traceback" not in told
    assert group_ends(process.pid, 2)
    assert not (tmp_path / "run" / f"{LEDGER}-wal").exists()  # the ledger was closed
    rows = read_children(tmp_path / "run" / LEDGER)
    assert [row.status for row in rows[:6]] == ["done"] * 5 + ["queued"]
    flag.unlink()
    subprocess.run(command, check=True, **settings)
    rows = read_children(tmp_path / "run" / LEDGER)
    assert {(row.status, row.attempts) for row in rows if row.original is None} == {("done", 1)}
    assert len(rows) == 12


class Provoked:
    """Trains real children, of which some go wrong by what they really do."""

    def __init__(self):
        self._images = ChildImages.open(DIGITS, TINY, 0)

    def __call__(self, genotype, task):
        number, config = task.proposal.number, TINY
        if number == 1:
            torch.empty(1 << 50)
        if number == 2:
            sys.exit(3)
        if number == 3:
            config = dataclasses.replace(config, lr=1e30, clip_norm=None)
        if number == 4:
            config = dataclasses.replace(config, timeout_seconds=1e-6)
        return train_child(genotype, task, self._images, config)


def test_children_that_really_fail_are_typed_and_the_others_are_trained(tmp_path):
    target = {"_target_": f"{__name__}.Provoked"}
    run(toy_config(tmp_path, 7, evaluator=target, strategy=RandomConfig()))
    rows = read_children(tmp_path / LEDGER)
    assert {row.number: (row.failure, row.attempts) for row in rows if row.failure} == {
        1: (Failure.OUT_OF_MEMORY, 2),
        2: (Failure.CRASH, 2),
        3: (Failure.NOT_FINITE, 1),
        4: (Failure.TIMEOUT, 2),
    }
    assert "can't allocate memory" in rows[1].detail
    assert rows[2].detail == "SystemExit: 3"
    assert all(0 <= row.reward <= 1 for row in rows if not row.failure)


@pytest.mark.parametrize("slots", [1, 8])
def test_a_storm_that_takes_every_host_pauses_the_search_and_costs_no_child(tmp_path, whole, slots):
    lost = {number: ["host lost"] * 4 for number in range(CHILDREN)}
    budget = BudgetConfig(children=CHILDREN, max_attempts=3)
    config = toy_config(
        tmp_path,
        CHILDREN,
        evaluator=toy_search.evaluator(failures=lost),
        executor=ScrambledConfig(slots=slots),
        budget=budget,
    )
    with pytest.raises(SearchPaused, match=r"child \d was lost 3 times with its host or process"):
        run(config)
    rows = read_children(tmp_path / LEDGER)
    assert {row.status for row in rows} == {"queued"}
    assert max(row.attempts for row in rows) == 3
    run(dataclasses.replace(config, budget=BudgetConfig(children=CHILDREN, max_attempts=5)))
    assert digest(tmp_path / LEDGER) == whole


def test_real_children_that_all_fail_pause_the_search_with_the_reason(tmp_path):
    config = toy_config(
        tmp_path,
        20,
        data=DIGITS,
        child=dataclasses.replace(TINY, lr=1e30, clip_norm=None),
        evaluator=None,
        budget=BudgetConfig(children=20, failures_in_a_row=3),
    )
    with pytest.raises(SearchPaused, match=r"3 children in a row failed, .* child 2, with not finite"):
        run(config)
    assert [row.failure for row in read_children(tmp_path / LEDGER)][:3] == [Failure.NOT_FINITE] * 3
