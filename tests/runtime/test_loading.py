"""Order and place of batches."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from runtime.launch import end_with_parent
from runtime.loading import ResumableLoader, cores
from runtime.random import counter_hash


class Numbers:
    """Sample i of epoch e is (e, i)."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, sample):
        return torch.tensor(sample)


class Broken(Numbers):
    def __getitem__(self, sample):
        raise ValueError("cat/3.png: cannot be read")


class Stuck(Numbers):
    """Its third sample never comes."""

    def __getitem__(self, sample):
        if sample[1] == 2:
            time.sleep(600)
        return super().__getitem__(sample)


def loader(count=10, batch_size=3, **options):
    return ResumableLoader(Numbers(count), batch_size, **{"seed": 1, "shuffle": True, **options})


class Grouped(Numbers):
    """Every third sample is of another group."""

    @property
    def groups(self):
        return (np.arange(self.count) % 3 == 0).astype(int)


def read(batches):
    return [[tuple(sample) for sample in batch.tolist()] for batch in batches]


def test_counter_hash_is_splitmix64():
    # First output of the reference implementation (Vigna, splitmix64.c) at seed 0.
    assert counter_hash(0).tolist() == [0xE220A8397B1DCDAF]


def test_counter_hash_of_arrays_equals_that_of_each_element():
    assert counter_hash(5, 2, [0, 7]).tolist() == [counter_hash(5, 2, 0)[0], counter_hash(5, 2, 7)[0]]


def test_the_order_is_a_permutation_that_depends_on_seed_and_epoch_only():
    a, b = loader(count=100), loader(count=100, batch_size=7)
    assert sorted(a.order(4)) == list(range(100))
    assert a.order(4).tolist() == b.order(4).tolist()
    assert a.order(4).tolist() != a.order(5).tolist()
    assert a.order(4).tolist() != loader(count=100, seed=2).order(4).tolist()


def test_epochs_follow_each_other_and_reach_the_data_set():
    one = loader(count=4, batch_size=2, shuffle=False)
    assert read(one) == [[(0, 0), (0, 1)], [(0, 2), (0, 3)]]
    assert read(one) == [[(1, 0), (1, 1)], [(1, 2), (1, 3)]]


@pytest.mark.parametrize(("drop_last", "sizes"), [(False, [3, 3, 3, 1]), (True, [3, 3, 3])])
def test_drop_last_leaves_out_the_short_batch(drop_last, sizes):
    one = loader(drop_last=drop_last)
    assert len(one) == len(sizes)
    assert [len(batch) for batch in one] == sizes


def test_drop_last_leaves_out_an_unfinished_optimiser_step():
    assert len(loader(count=11, batch_size=2, drop_last=True, step=2)) == 4
    with pytest.raises(ValueError, match=r"3 samples give no batch of 2 x 2 on 1 process$"):
        loader(count=3, batch_size=2, drop_last=True, step=2)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("given", [1, 3, 4])
def test_a_restored_loader_gives_the_batches_that_were_left(workers, given):
    straight = loader()
    first, second = read(straight), read(straight)
    interrupted, restored = loader(workers=workers), loader(workers=workers)
    iterator = iter(interrupted)
    assert read(next(iterator) for _ in range(given)) == first[:given]  # workers have read ahead by now
    restored.load_state_dict(interrupted.state_dict())
    left = first[given:] or second
    assert read(restored) == left


def test_the_position_after_the_last_batch_is_the_next_epochs_start():
    one = loader()
    iterator = iter(one)
    states = []
    for _ in range(4):
        next(iterator)
        states.append(tuple(one.state_dict().values()))
    assert states == [(0, 1), (0, 2), (0, 3), (1, 0)]


@pytest.mark.parametrize("workers", [0, 2])
def test_reading_leaves_the_global_generators_alone(workers):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    list(loader(workers=workers))
    assert torch.equal(before, torch.get_rng_state())


def test_ranks_share_the_common_order():
    parts = [loader(rank=rank, world=3).order(0) for rank in range(3)]
    common = loader().order(0)
    assert np.stack(parts, axis=1).reshape(-1).tolist() == [*common, *common[:2]]
    assert [len(loader(rank=rank, world=3)) for rank in range(3)] == [2, 2, 2]


@pytest.mark.parametrize("world", [1, 2])
def test_batches_of_groups_are_mixed_only_where_an_epoch_ends(world):
    ranks = [
        ResumableLoader(Grouped(50), 4, seed=1, shuffle=True, drop_last=True, rank=rank, world=world)
        for rank in range(world)
    ]
    orders = np.stack([one.order(3) for one in ranks], axis=1).reshape(-1)
    assert len(set(orders.tolist())) == 50
    size = 4 * world
    pure = 17 // size + 33 // size  # 17 samples of one group, 33 of the other
    kinds = orders[: pure * size].reshape(pure, size) % 3 == 0
    assert (kinds == kinds[:, :1]).all()
    assert ranks[0].order(3).tolist() != ranks[0].order(4).tolist()


def test_batches_of_groups_come_as_their_samples_come():
    plain, grouped = (ResumableLoader(kind(50), 4, seed=1, shuffle=True) for kind in (Numbers, Grouped))
    piles, expected = {0: [], 1: []}, []
    for sample in plain.order(0).tolist():
        pile = piles[int(sample % 3 == 0)]
        pile.append(sample)
        if len(pile) == 4:
            expected += pile
            pile.clear()
    assert grouped.order(0).tolist() == expected + piles[0] + piles[1]


def test_groups_change_nothing_where_nothing_is_shuffled():
    assert ResumableLoader(Grouped(9), 2, seed=1, shuffle=False).order(0).tolist() == list(range(9))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_of_the_data_set_keeps_its_one_line_message(workers):
    broken = ResumableLoader(Broken(4), 2, seed=0, shuffle=False, workers=workers)
    with pytest.raises(ValueError) as error:
        next(iter(broken))
    assert str(error.value) == "cat/3.png: cannot be read"


def test_too_few_samples_for_one_batch_are_refused():
    with pytest.raises(ValueError, match=r"3 samples give no batch of 4 on 1 process$"):
        loader(count=3, batch_size=4, drop_last=True)
    with pytest.raises(ValueError, match=r"^1 sample gives no batch of 4 on 1 process$"):
        loader(count=1, batch_size=4, drop_last=True)
    with pytest.raises(ValueError, match=r"^1 image to evaluate is fewer than the 2 processes$"):
        loader(count=1, batch_size=1).share(0, 2)


def test_a_process_ends_whose_parent_is_gone_already():
    process = multiprocessing.get_context("fork").Process(target=wait_for_parent, args=(1_234_567,))
    process.start()
    process.join(timeout=20)
    assert process.exitcode == 1


def wait_for_parent(parent):
    end_with_parent(parent)
    time.sleep(60)


@pytest.mark.filterwarnings("error:This DataLoader will create")
def test_more_workers_than_cores_are_not_started():
    many = loader(workers=cores() + 3)
    assert many.workers == cores()
    assert read(many) == read(loader())


def test_a_stuck_worker_is_killed_when_its_reader_stops(monkeypatch):
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.2)
    batches = iter(ResumableLoader(Stuck(10), 1, seed=0, shuffle=False, workers=2))
    next(batches)
    workers = multiprocessing.active_children()
    for worker in workers:
        os.kill(worker.pid, signal.SIGTERM)
    time.sleep(0.2)
    assert [worker.is_alive() for worker in workers] == [True, True]
    batches.close()
    assert sorted(worker.exitcode for worker in workers) == [-signal.SIGKILL, 0]


READ_AND_EXIT = """
import time
from runtime.loading import ResumableLoader

class Stuck:
    def __len__(self): return 10
    def __getitem__(self, sample): return time.sleep(600 * (sample[1] == 2)) or 0

batches = iter(ResumableLoader(Stuck(), 1, seed=0, shuffle=False, workers=2))
next(batches)
"""


def test_a_process_with_a_stuck_worker_can_end():
    assert subprocess.run([sys.executable, "-c", READ_AND_EXIT], timeout=60).returncode == 0
