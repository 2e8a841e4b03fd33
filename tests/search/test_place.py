"""A ledger on a local disk, with a copy in the folder of its search."""

import os
import shutil
import socket
from functools import partial
from pathlib import Path

import pytest
from fault_points import in_fork, in_memory, kill_at_point
from toy_search import FAVOURITE, Favourite, evaluator, toy_config

from backbones.ranges import ConfigError
from search.config import SpaceConfig
from search.ledger import file_system, place, writer
from search.ledger.digest import digest
from search.ledger.located import located
from search.ledger.reader import LEDGER, read_children, read_fact
from search.run import run
from search.snapshot import Snapshot
from search.strategies.config import ControllerConfig

CHILDREN = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with in_memory(tmp_path_factory.mktemp("places")) as folder:
        yield folder


def short_search(run_dir, ledger, children=CHILDREN):
    """ledger: None for `run_dir` itself."""
    return run(
        toy_config(
            run_dir,
            children,
            ledger=None if ledger is None else str(ledger),
            evaluator=evaluator(diary=str(run_dir.with_name("diary"))),
            space=SpaceConfig(blocks=1, operations=[FAVOURITE, "conv_1x1"], combinations=["add"]),
            strategy=ControllerConfig(architectures_per_update=3, lr=0.01, hidden=8),
        )
    )


@pytest.fixture(scope="module")
def whole(folder):
    short_search(folder / "unbroken", None)
    return digest(folder / "unbroken" / LEDGER)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


MOUNTS = """\
/dev/sda / ext4 rw 0 0
server:/home /home {kind} rw 0 0
/dev/sdb /home/me/local\\040disk ext4 rw 0 0
server:/home /over {kind} rw 0 0
/dev/sdc /over xfs rw 0 0
"""


def refusal(ledger):
    """What is said against a search in /home/me/run."""
    try:
        place.check_place(Path("/home/me/run"), ledger)
    except ConfigError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    "kind", ["nfs", "nfs4", "cifs", "smb3", "lustre", "gpfs", "fuse.sshfs", "fuse.gcsfuse", "9p"]
)
def test_file_systems_that_machines_share_are_refused(tmp_path, monkeypatch, kind):
    (tmp_path / "mounts").write_text(MOUNTS.format(kind=kind))
    monkeypatch.setattr(file_system, "MOUNTS", tmp_path / "mounts")
    advice = "set ledger to a folder on a local disk; run_dir receives copies"
    for ledger, refused in (
        (None, "run_dir = /home/me/run"),
        ("/home/me/ledgers", "ledger = /home/me/ledgers"),
    ):
        message = f"{refused} is on {kind}, where SQLite's write-ahead log is not safe; {advice}"
        assert refusal(ledger) == message
    for ledger in ("/home/me/local disk/here", "/homely", "/over/there", "/"):
        assert refusal(ledger) is None


def test_local_file_systems_are_not_refused(tmp_path, monkeypatch):
    (tmp_path / "mounts").write_text(MOUNTS.format(kind="fuseblk"))
    monkeypatch.setattr(file_system, "MOUNTS", tmp_path / "mounts")
    assert refusal(None) is None
    monkeypatch.setattr(file_system, "MOUNTS", tmp_path / "absent")
    assert refusal(None) is None


def test_a_search_in_a_shared_folder_is_refused_before_it_writes(tmp_path, monkeypatch):
    (tmp_path / "mounts").write_text(f"server:/ {tmp_path} nfs4 rw 0 0\n")
    monkeypatch.setattr(file_system, "MOUNTS", tmp_path / "mounts")
    with pytest.raises(ConfigError, match="is on nfs4"):
        short_search(tmp_path / "run", None)
    assert names(tmp_path) == ["mounts"]


@pytest.mark.parametrize("kind", ["file", "FIFO", "looping link", "dangling link"])
def test_a_ledger_that_is_no_folder_is_refused_by_its_key_before_the_search_writes(tmp_path, kind):
    path = tmp_path / "ledgers"
    {
        "file": path.touch,
        "FIFO": partial(os.mkfifo, path),
        "looping link": partial(path.symlink_to, path),
        "dangling link": partial(path.symlink_to, "absent"),
    }[kind]()
    with pytest.raises(ConfigError) as caught:
        short_search(tmp_path / "run", path)
    assert str(caught.value) == f"ledger = {path} is not a folder"
    assert names(tmp_path) == ["ledgers"]


def test_the_folder_of_a_search_receives_a_copy(folder, whole):
    content = short_search(folder / "one" / "run", folder / "one" / "disk")
    (live,) = (folder / "one" / "disk").glob("search-*.sqlite")
    assert digest(live) == digest(folder / "one" / "run" / LEDGER) == whole
    files = [
        "SHA256SUMS",
        "command.txt",
        "config.yaml",
        "genotype.json",
        "inputs.json",
        "log.txt",
        "metrics.json",
    ]
    assert names(folder / "one" / "run") == [*files, LEDGER, "versions.json"]
    assert content["metrics"]["children"] == CHILDREN
    assert short_search(folder / "one" / "run", folder / "one" / "disk") == content  # finished by the copy
    short_search(folder / "one" / "other", folder / "one" / "disk")
    assert len(list((folder / "one" / "disk").glob("search-*.sqlite"))) == 2


CONTINUATIONS = ["same disk", "disk gone", "disk no longer named", "disk gone and none named", "another disk"]


@pytest.mark.parametrize("how", CONTINUATIONS)
def test_a_killed_search_continues_from_the_newest_ledger_that_there_is(folder, whole, monkeypatch, how):
    monkeypatch.setattr(writer, "COPY_AFTER", 5)
    for point in range(30 + 7 * CONTINUATIONS.index(how), 260, 130):
        here = folder / f"{how}-{point}"
        run_dir, disk = here / "run", here / "disk"

        def dying(run_dir=run_dir, disk=disk, here=here, point=point):
            kill_at_point(here, point)
            short_search(run_dir, disk)

        assert in_fork(dying, folder / "log") in (0, -9)
        ran = (here / "diary").read_text().split() if (here / "diary").exists() else []
        (live,) = [*disk.glob("search-*.sqlite")] or [None]
        before = read_children(live) if live else []
        if "disk gone" in how:
            shutil.rmtree(disk, ignore_errors=True)
        elsewhere = {
            "disk no longer named": None,
            "disk gone and none named": None,
            "another disk": here / "2",
        }
        short_search(run_dir, elsewhere.get(how, disk))
        assert digest(run_dir / LEDGER) == whole
        again = (here / "diary").read_text().split()[len(ran) :]
        if "gone" not in how:
            assert not {str(row.number) for row in before if row.status == "done"} & set(again)
        # A ledger that was being made on a disk that nobody names any more stays there.
        for place_of_it in (run_dir, elsewhere.get(how, disk) or run_dir):
            assert not list(place_of_it.rglob("*.new*"))


def test_the_ledger_of_an_earlier_life_is_not_taken_for_the_newest(folder, whole):
    run_dir, first, second = (folder / "lives" / name for name in ("run", "first", "second"))
    short_search(run_dir, first, children=3)
    kept = folder / "lives" / "kept"
    first.rename(kept)  # that machine is down, and another one goes on
    short_search(run_dir, second, children=6)
    shutil.rmtree(second)
    kept.rename(first)
    short_search(run_dir, first)
    assert read_fact(run_dir / LEDGER, "life") == 3
    assert digest(run_dir / LEDGER) == whole
    assert sorted((folder / "lives" / "diary").read_text().split()) == sorted(
        str(row.number) for row in read_children(run_dir / LEDGER) if row.original is None
    )


def test_a_log_without_its_ledger_is_not_given_to_a_copy(folder):
    run_dir = folder / "orphan" / "run"
    short_search(run_dir, folder / "orphan" / "disk", children=3)
    (run_dir / f"{LEDGER}-wal").write_bytes(b"pages")
    (run_dir / LEDGER).unlink()
    (run_dir / "metrics.json").unlink()
    with pytest.raises(
        ValueError, match=r"search.sqlite-wal is left of a ledger whose search.sqlite is gone"
    ):
        short_search(run_dir, folder / "orphan" / "disk")


def test_a_search_that_runs_is_read_where_it_writes(folder, monkeypatch):
    """By its folder and by its ledger; on another host there is only the copy."""
    run_dir, disk = folder / "seen" / "run", folder / "seen" / "disk"
    found = {}

    def look(self, genotype, task):
        (live,) = disk.glob("search-*.sqlite")
        found.update(by_folder=located(run_dir), by_file=located(live), live=live)
        found["done"] = Snapshot.read(located(run_dir).ledger).count("done")
        with monkeypatch.context() as patch:
            patch.setattr("socket.gethostname", lambda: "elsewhere")
            found["away"] = located(run_dir)
        return honest(self, genotype, task)

    honest = Favourite.__call__
    monkeypatch.setattr(Favourite, "__call__", look)
    short_search(run_dir, disk)
    live = found["live"]
    assert found["by_folder"] == (run_dir, live, "")
    assert found["by_file"] == (run_dir.resolve(), live, "")
    assert found["away"] == (run_dir, run_dir / LEDGER, f"{socket.gethostname()}:{live}")
    assert found["done"] > CHILDREN / 2
    shutil.rmtree(disk)
    assert located(run_dir) == (run_dir, run_dir / LEDGER, f"{live}, which is gone")
