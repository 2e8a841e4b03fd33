import errno
import fcntl
import json
import multiprocessing
import os
import re
import signal
import socket
import time

import pytest

from runtime import owner
from runtime.owner import FILE, FolderInUseError, owned, owns

fork = multiprocessing.get_context("fork")


def hold(folder, ready, seconds=60.0):
    with owned(folder):
        ready.set()
        time.sleep(seconds)


@pytest.fixture
def other(tmp_path):
    """Another process that owns `tmp_path / "run"`."""
    ready = fork.Event()
    process = fork.Process(target=hold, args=(tmp_path / "run", ready))
    process.start()
    assert ready.wait(10)
    yield process
    process.kill()
    process.join()


def refused(folder):
    with pytest.raises(FolderInUseError) as error, owned(folder):
        pass
    return str(error.value)


def test_a_second_owner_is_refused_with_host_process_and_start_of_the_first(tmp_path, other):
    found = re.fullmatch(
        rf"{tmp_path}/run is in use by process (\d+) on (.+), started (20\d\d-\d\d-\d\d \d\d:\d\d:\d\d \S+); "
        "wait until it has ended, or choose another folder",
        refused(tmp_path / "run"),
    )
    assert found is not None
    assert found[1] == str(other.pid)
    assert found[2] == socket.gethostname()
    assert abs(time.time() - time.mktime(time.strptime(found[3], "%Y-%m-%d %H:%M:%S %z"))) < 24 * 3600


def test_a_killed_owner_leaves_the_folder_free_and_is_no_owner(tmp_path, other):
    other.kill()
    other.join()
    assert (tmp_path / "run" / FILE).exists()
    with owned(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / FILE).read_text())["pid"] == os.getpid()


def test_blocks_of_one_process_nest_and_the_outermost_one_ends_it(tmp_path):
    with owned(tmp_path / "run"):
        with owned(tmp_path / "run"):
            pass
        assert owns(tmp_path / "run")
        assert (tmp_path / "run" / FILE).exists()
    assert not owns(tmp_path / "run")


def test_folders_made_for_it_go_when_nothing_was_written(tmp_path):
    with owned(tmp_path / "a" / "b", tmp_path / "a" / "c"):
        (tmp_path / "a" / "c" / "kept").touch()
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == [
        "a",
        "a/c",
        "a/c/kept",
    ]


def outlive(folder, ready):
    """Owns a folder, forks a child that sleeps on, and waits to be killed."""
    with owned(folder):
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
        (folder / "child").write_text(str(child))
        ready.set()
        time.sleep(60)


def test_a_forked_child_that_outlives_the_owner_does_not_hold_the_folder(tmp_path):
    ready = fork.Event()
    process = fork.Process(target=outlive, args=(tmp_path, ready))
    process.start()
    assert ready.wait(10)
    assert str(process.pid) in refused(tmp_path)
    process.kill()
    process.join()
    child = int((tmp_path / "child").read_text())
    try:
        os.kill(child, 0)  # it is there
        with owned(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)


def test_all_ranks_but_the_first_own_nothing_and_are_not_refused(tmp_path, other, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    with owned(tmp_path / "run", tmp_path / "new"):
        assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks_a_file_that_is_renewed_says_that_the_owner_lives(tmp_path, monkeypatch, number):
    def no_locks(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    monkeypatch.setattr(owner, "SETTLE_SECONDS", 0.01)
    monkeypatch.setattr(owner, "BEAT_SECONDS", 0.05)
    path = tmp_path / FILE
    ready = fork.Event()
    process = fork.Process(target=hold, args=(tmp_path, ready))
    process.start()
    assert ready.wait(10)
    os.utime(path, (0, 0))
    time.sleep(0.3)
    assert time.time() - path.stat().st_mtime < 5  # renewed
    message = refused(tmp_path)
    assert f"process {process.pid} on" in message
    assert re.search(r"if it was killed, the folder is free in (59|60) s", message)
    process.kill()
    process.join()
    now = time.time()
    os.utime(path, (now - 50, now - 50))
    assert "is free in 10 s" in refused(tmp_path)
    os.utime(path, (now - 61, now - 61))
    with owned(tmp_path):
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert not path.exists()


def test_what_is_no_lock_file_is_named_and_not_opened(tmp_path):
    os.mkfifo(tmp_path / FILE)
    with (
        pytest.raises(ValueError, match=rf"{tmp_path}/{FILE}: expected a lock file, but this is a FIFO"),
        owned(tmp_path),
    ):
        pass
    (tmp_path / FILE).unlink()
    (tmp_path / FILE).write_bytes(b"\x00\xff of another program")  # or of a disk that ran full
    with owned(tmp_path):
        pass


def test_a_disk_that_is_full_names_the_file(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with (
        pytest.raises(OSError, match=rf"No space left on device: '{tmp_path}/run/{FILE}'"),
        owned(tmp_path / "run"),
    ):
        pass
    assert not (tmp_path / "run").exists()
