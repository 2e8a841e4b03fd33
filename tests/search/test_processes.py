"""What only processes can do: die, hang, take the machine's memory, outlive their driver."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import small_evaluators
import torch
from small_evaluators import Behaves, task
from toy_search import history, toy_config

from backbones.ranges import ConfigError
from classification.config import ImageDataConfig
from search.children.config import ChildConfig
from search.children.images import ChildImages
from search.children.shared_images import images_folder, kept_on_disk
from search.executors.config import InlineConfig, ProcessConfig
from search.executors.packing import Device, Packed, devices, own_memory
from search.ledger.reader import read_children
from search.messages import Failure, SearchPaused
from search.run import run

DIGITS = ImageDataConfig(name="digits", flip=False, crop_padding=1, train_limit=200)
TINY = ChildConfig(
    cells_per_stage=1, filters=4, image_size=8, epochs=1, batch_size=40, validation=40, training=80
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def drain(executor, tasks):
    waiting, results = list(tasks), []
    while len(results) < len(tasks):
        while waiting and executor.capacity():
            executor.submit(waiting.pop(0))
        results += executor.poll()
    return {result.proposal.number: result for result in results}


ENDS = {
    "hang in native code": (Failure.TIMEOUT, "killed after 3 s"),
    "exit": (Failure.CRASH, "exit code 7"),
    "hang": (Failure.TIMEOUT, "killed after 3 s"),
    "segfault": (Failure.CRASH, "by SIGSEGV"),
    "interrupt": (Failure.CRASH, "exit code 130"),  # Ctrl-C itself does not reach a worker
    "kill itself": (Failure.HOST_LOST, "by SIGKILL from outside"),
    "take memory": (Failure.OUT_OF_MEMORY, "above executor.memory_gb = 1.20"),
}


@pytest.mark.parametrize("count", [2, pytest.param(len(ENDS), marks=pytest.mark.slow)])
def test_a_child_that_ends_its_process_is_a_typed_failure_and_the_others_go_on(count):
    ends = dict(list(ENDS.items())[:count])
    tasks = [task(number, does) for number, does in enumerate([*ends, "score"])]
    config = ProcessConfig(workers=2, timeout_seconds=3, memory_gb=1.2)
    with closing(config.build(Behaves(), "search")) as executor:
        results = drain(executor, tasks)
    for number, (failure, detail) in enumerate(ends.values()):
        assert results[number].failure is failure
        assert detail in results[number].detail
    assert results[count].reward == count / 10
    assert all(result.site.pid != os.getpid() for result in results.values())
    assert 3 <= results[0].seconds < 60


def test_evaluator_that_cannot_be_opened_pauses_the_search():
    with closing(ProcessConfig(workers=1).build(small_evaluators.Unopenable(), "search")) as executor:
        executor.submit(task(0))
        with pytest.raises(SearchPaused, match="ValueError: no such laboratory"):
            drain(executor, [task(1)])


def test_evaluator_that_cannot_travel_is_refused():
    with pytest.raises(ConfigError, match="cannot be pickled"):
        ProcessConfig(workers=1).build(lambda: None, "search")


def test_search_on_processes_gives_what_the_driver_alone_gives(tmp_path):
    folders = [tmp_path / name for name in ("inline", "processes")]
    for folder, executor in zip(folders, (InlineConfig(), ProcessConfig(workers=2)), strict=True):
        run(toy_config(folder, 6, evaluator=None, data=DIGITS, child=TINY, executor=executor))
    assert history(folders[0]) == history(folders[1])
    rows = read_children(folders[1] / "search.sqlite")
    assert all(row.reward is not None and row.peak_bytes for row in rows)
    assert list(images_folder().iterdir()) == [images_folder() / "lock"]


DRIVER = """
import sys, time
from small_evaluators import Behaves, task
from search.executors.config import ProcessConfig
executor = ProcessConfig(workers=2).build(Behaves(), "search")
executor.submit(task(0, "hang in native code"))
executor.submit(task(1, "hang"))
print(*(worker.process.pid for worker in executor._workers), flush=True)
try:
    while True:
        executor.poll()
        if all(worker.begun for worker in executor._workers):
            print("running", flush=True)
except KeyboardInterrupt:
    print("interrupted", flush=True)
    time.sleep(600)
"""


def start_driver():
    driver = subprocess.Popen(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{DRIVER}"],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    return driver, [int(pid) for pid in driver.stdout.readline().split()]


def alive(pid):
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def all_gone(pids, seconds=2.0):
    end = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.02)
    return not any(map(alive, pids))


def test_workers_die_with_a_driver_that_is_killed_while_they_start():
    driver, pids = start_driver()
    time.sleep(0.3)
    driver.kill()
    driver.wait()
    assert len(pids) == 2
    assert all_gone(pids)


@pytest.mark.slow
def test_workers_survive_signals_to_the_group_and_die_with_the_driver():
    driver, pids = start_driver()
    assert driver.stdout.readline() == "running\n"
    for number in (signal.SIGINT, signal.SIGTERM):
        for pid in pids:
            os.kill(pid, number)
    os.killpg(driver.pid, signal.SIGINT)
    while driver.stdout.readline() != "interrupted\n":
        pass
    assert all(map(alive, pids))
    driver.kill()
    driver.wait()
    assert all_gone(pids)


def numbers(tasks):
    return [each.proposal.number for each in tasks]


def test_tasks_start_in_order_as_memory_allows():
    device = Device(slots=4, memory=100)
    for number, memory in enumerate([60, 50, 10, 400]):
        device.tasks.append(Packed(task(number), memory))
    assert device.free() == 0
    assert numbers(device.start()) == [0]  # 10 would fit, but 50 waits before it
    device.remove(0)
    assert numbers(device.start()) == [1, 2]
    device.remove(2)
    assert numbers(device.start()) == []
    device.remove(1)
    assert numbers(device.start()) == [3]  # nothing else runs, so it may try
    device.remove(3)
    assert device.free() == 4


def test_task_that_is_to_be_alone_waits_and_lets_none_in():
    device = Device(slots=3)
    device.tasks += [Packed(task(0), 0), Packed(task(1, alone=True), 0)]
    assert numbers(device.start()) == [0]
    assert device.free() == 0
    device.remove(0)
    assert numbers(device.start()) == [1]
    assert device.free() == 0


def shares(workers, per_gpu, gpus, cores=8, threads=2):
    return [(each.slots, each.gpu) for each in devices(workers, per_gpu, gpus, cores, threads, 10)]


def test_workers_are_spread_over_cores_or_gpus():
    assert shares(None, 1, []) == [(4, None)]
    assert shares(3, 1, []) == [(3, None)]
    assert shares(None, 2, ["0", "3"]) == [(2, "0"), (2, "3")]
    assert shares(3, 2, ["0", "3"]) == [(2, "0"), (1, "3")]
    assert shares(1, 2, ["0", "3"]) == [(1, "0")]
    assert shares(None, 3, [None]) == [(3, None)]
    with pytest.raises(ConfigError, match=r"workers = 5, but 2 GPUs .* hold 4"):
        shares(5, 2, ["0", "3"])


# In a process of its own: a heap that has free room serves a new tensor from pages that it holds already.
STAGES = """
import sys
import numpy as np, torch
mapped = np.load(sys.argv[1], mmap_mode="c")
def stage():
    print(flush=True)
    input()
stage()
assert mapped.sum() == 50_000_000
stage()
tensor = torch.ones(50_000_000, dtype=torch.uint8)
stage()
"""


def test_memory_of_a_process_counts_tensors_and_no_mapped_files(tmp_path):
    np.save(tmp_path / "mapped.npy", np.ones(50_000_000, np.uint8))
    command = [sys.executable, "-c", STAGES, tmp_path / "mapped.npy"]
    seen = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        for _ in range(3):
            assert process.stdout.readline() == b"\n"
            seen.append(own_memory(process.pid))
            process.stdin.write(b"\n")
            process.stdin.flush()
    assert process.returncode == 0
    assert seen[1] - seen[0] < 5e6
    assert 45e6 < seen[2] - seen[1] < 60e6
    assert own_memory(2**22 + 1) == 0


def test_images_on_disk_are_those_that_were_opened():
    images = ChildImages.open(DIGITS, dataclasses.replace(TINY, image_size=12), seed=0)
    with kept_on_disk(images) as folder:
        loaded = ChildImages.load(folder, DIGITS, dataclasses.replace(TINY, image_size=12))
        assert f"{folder}/pixels.npy" in Path("/proc/self/maps").read_text()
    for train in (True, False):
        batches = [
            each.images.batch(each.training[:9], epoch=1, seed=2, train=train) for each in (images, loaded)
        ]
        assert torch.equal(batches[0][0], batches[1][0])
        assert torch.equal(batches[0][1], batches[1][1])
    assert loaded.record == images.record
    assert loaded.num_classes == 10
    assert np.array_equal(loaded.validation, images.validation)


def test_images_on_disk_stay_while_anyone_uses_them_and_leftovers_go():
    images = ChildImages.open(DIGITS, TINY, seed=0)
    left = [images_folder() / name for name in ("0123", "0123.tmp")]  # of processes that were killed
    for folder in left:
        folder.mkdir(parents=True)
    (left[0] / "pixels.npy").touch()
    with kept_on_disk(images) as first:
        assert not any(map(Path.exists, left))
        with kept_on_disk(images) as second:
            assert first == second
        assert first.exists()
    assert not first.exists()
