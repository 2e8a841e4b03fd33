"""A ledger is read by those who may not write to its folder."""

import os
import shutil
from contextlib import closing

import pytest
from fault_points import in_fork, in_memory
from mounts import mount_read_only, own_mounts, skip_without_mounts
from toy_search import toy_config

from search.ledger import reader
from search.ledger.digest import digest
from search.ledger.reader import LEDGER, read_children
from search.ledger.writer import Ledger
from search.run import run

NOBODY = 65534


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with in_memory(tmp_path_factory.mktemp("reading")) as folder:
        folder.chmod(0o755)
        run(toy_config(folder / "run", 6))
        yield folder


@pytest.fixture(params=["closed", "running", "killed", "killed, its log copied"])
def ledger(folder, request):
    """A ledger with a fact of which the log alone knows, unless the search has ended."""
    path = folder / request.param / LEDGER
    path.parent.mkdir()
    shutil.copyfile(folder / "run" / LEDGER, path)
    if request.param == "killed, its log copied":
        in_fork(lambda: (write(path), os._exit(0)), folder / "log")
        path.with_name(f"{LEDGER}-shm").unlink()
        assert path.with_name(f"{LEDGER}-wal").stat().st_size
    elif request.param == "killed":
        in_fork(lambda: (write(path), os._exit(0)), folder / "log")
    else:
        open_ledger = write(path)
        if request.param == "closed":
            open_ledger.close()
    yield path
    if request.param == "running":
        open_ledger.close()
    path.parent.chmod(0o755)
    shutil.rmtree(path.parent)


def write(path):
    ledger = Ledger(path)
    ledger.save(facts={"late": 7})
    return ledger


def as_found(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def check_reading(path, folder):
    with pytest.raises(OSError):
        (path.parent / "new").touch()
    check_readable(path, folder)


def check_readable(path, folder):
    assert reader.read_fact(path, "late") == 7
    assert digest(path) == digest(folder / "run" / LEDGER)
    assert read_children(path) == read_children(folder / "run" / LEDGER)


def test_reading_leaves_the_files_of_a_folder_as_they_are(ledger, folder):
    before = sorted(as_found(ledger.parent))
    check_readable(ledger, folder)
    assert sorted(as_found(ledger.parent)) == before


def test_a_folder_of_another_user_is_read(ledger, folder):
    before = as_found(ledger.parent)
    ledger.parent.chmod(0o555)

    def as_nobody():
        if os.geteuid() == 0:
            os.setuid(NOBODY)
        check_reading(ledger, folder)

    assert in_fork(as_nobody, folder / "log") == 0, (folder / "log").read_text()
    assert as_found(ledger.parent) == before


def test_a_read_only_file_system_is_read(ledger, folder):
    skip_without_mounts(folder / "log")
    before = as_found(ledger.parent)

    def on_a_read_only_mount():
        own_mounts()
        mount_read_only(ledger.parent)
        check_reading(ledger, folder)

    assert in_fork(on_a_read_only_mount, folder / "log") == 0, (folder / "log").read_text()
    assert as_found(ledger.parent) == before


def test_a_ledger_that_changes_while_it_is_copied_is_copied_again(folder, monkeypatch):
    path = folder / "changing" / LEDGER
    path.parent.mkdir()
    shutil.copyfile(folder / "run" / LEDGER, path)
    copy, copied = shutil.copyfile, []

    def while_it_is_written(source, target):
        copied.append(source)
        if len(copied) <= writes:
            ledger.save(facts={"late": len(copied)})
        copy(source, target)

    monkeypatch.setattr(shutil, "copyfile", while_it_is_written)
    with closing(Ledger(path)) as ledger:
        ledger.save(facts={"late": 0})
        writes = 2
        with closing(reader._copied(path)) as database:
            assert database.execute("SELECT value FROM facts WHERE name = 'late'").fetchone() == ("2",)
        writes = 99
        with pytest.raises(OSError, match="cannot be read while it is written to"):
            reader._copied(path)
