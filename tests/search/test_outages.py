"""What a search does where it cannot write, and how it continues when it can again."""

import re

import pytest
from fault_points import in_fork
from mounts import mount_memory, mount_read_only, own_mounts, skip_without_mounts
from toy_search import toy_config

from search.ledger.digest import digest
from search.ledger.reader import LEDGER
from search.run import run

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


@pytest.mark.parametrize("kilobytes", [8, 64, 800, 1200, 1500])
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
