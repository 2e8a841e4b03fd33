"""Batches whose order and place are data: what exact resume asks of a loader.

The order is a pure function of (seed, epoch), so a position is two integers, and a loader rebuilt in
another process goes on with the next batch. Datasets receive (epoch, index) and draw their augmentation
from `counter_hash(seed, epoch, index)`, never from a global generator, so the number of workers and their
timing change nothing.
"""

import copy
import functools
import multiprocessing
import multiprocessing.process
import multiprocessing.util
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, default_collate

from backbones.words import counted
from runtime.interrupts import ignore_signals, signals_held
from runtime.launch import end_with_parent
from runtime.random import counter_hash
from runtime.steps import StepPlan

Sample = tuple[int, int]  # (epoch, index)


class ResumableLoader:
    """Endless epochs of batches; `state_dict()` is `{epoch, batches_given}`.

    `batches_given` counts what the consumer received, not what workers prefetched, so a checkpoint taken
    between two batches resumes with the second. With the last batch of an epoch the position moves to
    (epoch + 1, 0), because trainers that know the length never ask for the end.

    dataset: has `__len__` and either `__getitems__(list of (epoch, index))`, which returns the whole batch,
        or `__getitem__((epoch, index))`, whose samples `collate` (default: PyTorch's) joins. Where it has
        `groups` (`[N]` integers; None: none), shuffled batches hold samples of one group each, but for what
        is left of the groups when an epoch ends.
    seed: of the order. shuffle: False gives 0, 1, 2, ... in every epoch.
    workers: processes that read ahead, at most one per core; 0 reads in the caller's. No batch depends on it.
    drop_last: leave out the samples that do not fill `step` batches, which make one optimiser step.
    rank, world: this process takes every `world`-th sample of the common order; where N is no multiple of
        `world` the order is filled up from its own start, or with drop_last cut, so that all ranks give
        equally many batches, and a batch of all ranks together is the one that a single process would give.
    Raises ValueError where there is nothing to give. A ValueError or OSError of the dataset is raised here
    with its own message, whether or not it happened in a worker.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        *,
        seed: int,
        shuffle: bool,
        workers: int = 0,
        drop_last: bool = False,
        step: int = 1,
        collate: Callable[[list[Any]], Any] | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size = {batch_size}, must be at least 1")
        if workers < 0:
            raise ValueError(f"workers = {workers}, must be at least 0")
        if not 0 <= rank < world:
            raise ValueError(f"rank = {rank}, must lie in 0..{world - 1}")
        self.dataset = dataset
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.workers = min(workers, cores())
        self.rank, self.world, self._fill = rank, world, not drop_last
        self._reader = _Reader(dataset, collate or default_collate)
        samples = len(dataset) // world if drop_last else -(-len(dataset) // world)
        self._length = samples // (batch_size * step) * step if drop_last else -(-samples // batch_size)
        if not self._length:
            times = f"{step} x " if drop_last and step > 1 else ""
            samples_given = counted(len(dataset), "sample gives", "samples give")
            raise ValueError(
                f"{samples_given} no batch of {times}{batch_size} on {counted(world, 'process', 'processes')}"
            )
        self.epoch = 0
        self.batches_given = 0
        self._last = (0, 0)

    def __len__(self) -> int:
        """Batches per epoch and rank."""
        return self._length

    def share(self, rank: int, world: int) -> "ResumableLoader":
        """The part of a rank in batches without any sample twice; ranks may give different numbers of them.

        Raises ValueError where there are fewer samples than ranks."""
        if len(self.dataset) < world:
            images = counted(len(self.dataset), "image to evaluate is", "images to evaluate are")
            raise ValueError(f"{images} fewer than the {world} processes")
        part = copy.copy(self)
        part.rank, part.world, part._fill = rank, world, False
        part._length = -(-len(part.order(0)) // part.batch_size)
        return part

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Sample indices of this rank in `epoch`, all of which have equally many but in a `share`."""
        count = len(self.dataset)
        order = np.arange(count)
        if self.shuffle:
            order = np.argsort(counter_hash(self.seed, epoch, order), kind="stable")
            if (groups := getattr(self.dataset, "groups", None)) is not None:
                order = _in_groups(order, groups[order], self.batch_size * self.world)
        if self._fill:
            order = np.resize(order, -(-count // self.world) * self.world)
        return order[self.rank :: self.world]

    def last_samples(self) -> list[Sample]:
        """What the batch given last consisted of."""
        epoch, number = self._last
        start = number * self.batch_size
        return [(epoch, int(index)) for index in self.order(epoch)[start : start + self.batch_size]]

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "batches_given": self.batches_given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.batches_given = state["epoch"], state["batches_given"]

    def __iter__(self) -> Iterator[Any]:
        """The rest of the present epoch."""
        epoch = self.epoch
        for given, batch in enumerate(self._read(epoch, self.batches_given), self.batches_given + 1):
            if isinstance(batch, _Failure):
                raise batch.kind(batch.message)
            self._last = (epoch, given - 1)
            if given == len(self):
                self.epoch, self.batches_given = epoch + 1, 0
            else:
                self.epoch, self.batches_given = epoch, given
            yield batch

    def _read(self, epoch: int, first: int) -> Iterator[Any]:
        order = self.order(epoch)
        starts = range(first * self.batch_size, len(self) * self.batch_size, self.batch_size)
        batches = ([(epoch, int(i)) for i in order[start : start + self.batch_size]] for start in starts)
        if not self.workers:
            return map(self._reader.__getitems__, batches)
        return _read_ahead(
            DataLoader(
                self._reader,
                batch_sampler=batches,
                num_workers=self.workers,
                collate_fn=_same,
                pin_memory=torch.cuda.is_available(),
                worker_init_fn=functools.partial(_end_with_reader, os.getpid()),
                # The loader would else draw its workers' seed from the global generator, which moves that
                # generator at each epoch's start and so differs between a straight and a resumed run.
                generator=torch.Generator().manual_seed(self.seed),
            )
        )


def cores() -> int:
    """CPU cores that this process may use: of a container or a batch job, fewer than the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def training_loader(
    dataset: Any,
    plan: StepPlan,
    *,
    seed: int,
    rank: int,
    workers: int = 0,
    collate: Callable[[list[Any]], Any] | None = None,
) -> ResumableLoader:
    """Shuffled batches of one backward pass; what does not fill a whole optimiser step is left out."""
    return ResumableLoader(
        dataset,
        plan.images_per_pass,
        seed=seed,
        shuffle=True,
        workers=workers,
        drop_last=True,
        step=plan.accumulate,
        collate=collate,
        rank=rank,
        world=plan.trainer.processes,
    )


def _in_groups(order: NDArray[np.int64], groups: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """`order` in such a way that every `size` of it are of one group; what fills no batch comes last.

    A batch comes when it is full, as if the samples were dealt to one pile per group. groups: of each sample
    in `order`."""
    places = np.argsort(groups, kind="stable")
    grouped = groups[places]
    first, end = np.searchsorted(grouped, grouped), np.searchsorted(grouped, grouped, side="right")
    last = first + ((np.arange(len(order)) - first) // size + 1) * size - 1  # of a sample's batch
    full = np.where(last < end, places[np.minimum(last, len(order) - 1)], len(order))
    return order[places[np.argsort(full, kind="stable")]]


@dataclass(frozen=True)
class _Failure:
    """An error that happened in a worker: as a value it keeps its one-line message."""

    kind: type[Exception]
    message: str


class _Reader(Dataset[Any]):
    """Reads whole batches, in the caller's process or in a worker."""

    def __init__(self, dataset: Any, collate: Callable[[list[Any]], Any]) -> None:
        self.dataset, self.collate = dataset, collate

    def __getitems__(self, samples: Sequence[Sample]) -> Any:
        try:
            if hasattr(self.dataset, "__getitems__"):
                return self.dataset.__getitems__(samples)
            return self.collate([self.dataset[sample] for sample in samples])
        except FileNotFoundError as error:
            return _Failure(FileNotFoundError, str(error))
        except (ValueError, OSError) as error:
            return _Failure(ValueError, str(error))


def _read_ahead(loader: DataLoader[Any]) -> Iterator[Any]:
    """The batches that worker processes read, which a signal to their group leaves alone.

    Ctrl-C and `timeout`, systemd or SLURM send their signal to all processes of a group. The reader handles
    it; a worker that died of it would end the reader without a checkpoint."""
    others = multiprocessing.active_children()
    with signals_held():  # the workers inherit this: there is no moment in which a signal ends them
        batches = iter(loader)
    workers = [child for child in multiprocessing.active_children() if child not in others]
    for worker in workers:
        worker.terminate = worker.kill  # type: ignore[method-assign] # DataLoader ends a stuck one by SIGTERM
    # At its end a process would send them SIGTERM, too, and wait for ever; this comes before.
    kill = multiprocessing.util.Finalize(None, _kill, args=(workers,), exitpriority=100)
    try:
        yield from batches
    finally:
        del batches  # ends the workers, and waits some seconds for a stuck one
        kill()


def _kill(workers: Sequence[multiprocessing.process.BaseProcess]) -> None:
    for worker in workers:
        if worker.is_alive():
            worker.kill()
            worker.join()


def _end_with_reader(reader: int, _worker: int) -> None:
    ignore_signals()
    # PyTorch's own watch misses a reader that was killed while its worker started.
    end_with_parent(reader)


def _same(batch: Any) -> Any:
    return batch
