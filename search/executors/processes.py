"""Children in processes of this machine. They die with the driver; the driver ends those that hang.

What the death of a worker means for its child (rules 4 and 5 of deterministic asynchrony): any exit code,
and a signal of the program's own such as SIGSEGV, are the child's doing, a crash. SIGKILL, SIGTERM and SIGHUP
come from outside: the host is lost, and the child is retried unseen. But where the kernel has just ended
processes for want of memory, SIGKILL is out of memory. What the driver itself kills is a timeout or out of
memory.
"""

import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch

from backbones.ranges import KEY, ConfigError
from runtime.device import resolve_device
from runtime.interrupts import signals_held
from search.executors.config import ProcessConfig, killed_after
from search.executors.packing import Device, Packed, available_memory, devices, kernel_kills, own_memory
from search.executors.worker import Ready, Told
from search.messages import ChildTask, Failure, OnProgress, OpenEvaluator, Result, SearchPaused, Site

SHARE_OF_AVAILABLE = 0.8
WAIT_SECONDS = 0.2
"""Longest time between two looks at the limits of running children."""
SECONDS_TO_END = 5.0
FROM_OUTSIDE = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGHUP})


@dataclass
class _Worker:
    """A process and the task that it was given. begun: when it could start that; None before it was ready."""

    process: subprocess.Popen[bytes]
    pipe: Connection
    device: Device
    ready: bool = False
    site: Site | None = None
    task: ChildTask | None = None
    begun: float | None = None


class ProcessExecutor:
    """Workers that import PyTorch once, each on one device with one child at a time.

    `open_evaluator` must be picklable. It may have these attributes, as that of our own training has:
    `threads`, of a child (1); `device`, as `child.device` (`cpu`); `timeout_seconds`, after which a child
    ends by itself; `predicted_memory(genotype)`, bytes that a child's process will need on the CPU;
    `shared()`, a context manager of an opener that has its data once for all processes of this machine.
    """

    dies_with_driver = False

    def __init__(self, config: ProcessConfig, open_evaluator: OpenEvaluator, search: str):
        """Starts the workers and does not wait for them. Only a main thread can: they die with their thread.

        search: is not used."""
        self._predict = getattr(open_evaluator, "predicted_memory", None)
        self._timeout = killed_after(config, getattr(open_evaluator, "timeout_seconds", None))
        gpus, memory = _gpus(getattr(open_evaluator, "device", "cpu")), config.memory_gb
        self._memory = int(SHARE_OF_AVAILABLE * available_memory() if memory is None else 1e9 * memory)
        cores, threads = len(os.sched_getaffinity(0)), getattr(open_evaluator, "threads", 1)
        self._devices = devices(config.workers, config.workers_per_gpu, gpus, cores, threads, self._memory)
        self._kernel_kills, self._workers = kernel_kills(), list[_Worker]()
        self._shared = contextlib.ExitStack()
        try:
            if (share := getattr(open_evaluator, "shared", None)) is not None:
                open_evaluator = self._shared.enter_context(share())
            self._opener = _pickled(open_evaluator)
            for device in self._devices:
                for _ in range(device.slots):
                    self._start_worker(device)
        except BaseException:
            self.close()
            raise

    def adopt(self, tasks: Sequence[ChildTask]) -> set[int]:
        return set()

    def capacity(self) -> int:
        return sum(device.free() for device in self._devices)

    def submit(self, task: ChildTask) -> None:
        device = max(self._devices, key=Device.free)
        if device.free() < 1:
            raise RuntimeError(f"child {task.proposal.number} was submitted to a busy executor")
        memory = 0
        if self._predict is not None and device.memory is not None:
            memory = self._predict(task.proposal.genotype)
        device.tasks.append(Packed(task, memory))
        self._assign()

    def poll(self, on_progress: OnProgress | None = None) -> list[Result]:
        busy = any(worker.task for worker in self._workers)
        wait([worker.pipe for worker in self._workers], timeout=WAIT_SECONDS if busy else 0)
        results: list[Result | None] = []
        for worker in list(self._workers):
            results.append(self._read(worker, on_progress))
            results.append(self._over_time(worker))
        results.append(self._over_memory())
        self._assign()
        return [result for result in results if result is not None]

    def cancel(self, number: int) -> None:
        for worker in list(self._workers):
            if worker.task and worker.task.proposal.number == number:
                self._end(worker)
        for device in self._devices:
            device.remove(number)

    def close(self) -> None:
        for worker in list(self._workers):
            self._end(worker)
        self._shared.close()

    def _assign(self) -> None:
        """Gives every task that may start to an idle worker of its device, or to a new one."""
        for device in self._devices:
            for task in device.start():
                idle = [each for each in self._workers if each.device is device and not each.task]
                alive = (each for each in idle if each.process.poll() is None)
                worker = next(alive, None) or self._start_worker(device)
                worker.task, worker.begun = task, time.monotonic() if worker.ready else None
                _send(worker.pipe, _pickled(task))

    def _start_worker(self, device: Device) -> _Worker:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("workers are started by the main thread alone: they die with their thread")
        own, other = socket.socketpair()
        code = f"import sys; sys.path[:] = {sys.path!r}; from search.executors.worker import main; main()"
        arguments = [str(other.fileno()), str(os.getpid()), device.gpu or "-"]
        with other, signals_held():
            process = subprocess.Popen(
                [sys.executable, "-c", code, *arguments],
                pass_fds=[other.fileno()],
                stdin=subprocess.DEVNULL,
            )
        worker = _Worker(process, Connection(own.detach()), device)
        self._workers.append(worker)
        _send(worker.pipe, self._opener)
        return worker

    def _read(self, worker: _Worker, on_progress: OnProgress | None) -> Result | None:
        """What a worker sent, and what its death means."""
        dead, closed = worker.process.poll() is not None, False  # before the pipe: what it sent still counts
        try:
            while worker.pipe.poll():
                message: Any = worker.pipe.recv()
                if isinstance(message, Told):
                    if on_progress is not None:
                        on_progress(message.number, message.done, message.epochs)
                elif isinstance(message, Result):
                    return self._done(worker, message)
                else:
                    self._opened(worker, message)
        except (EOFError, OSError):
            closed = True
            with contextlib.suppress(subprocess.TimeoutExpired):  # an interpreter closes its files first
                worker.process.wait(SECONDS_TO_END)
        return self._death(worker) if dead or closed else None

    def _opened(self, worker: _Worker, message: Ready) -> None:
        if message.error:
            raise SearchPaused(f"a worker could not open its evaluator: {message.error}")
        worker.ready, worker.site = True, message.site
        worker.begun = time.monotonic() if worker.task else None

    def _done(self, worker: _Worker, result: Result) -> Result:
        worker.task = worker.begun = None
        worker.device.remove(result.proposal.number)
        return result

    def _death(self, worker: _Worker) -> Result | None:
        code = self._end(worker)
        before, self._kernel_kills = self._kernel_kills, kernel_kills()
        if code < 0 and -code in FROM_OUTSIDE:
            memory = self._kernel_kills > before and code == -signal.SIGKILL
            failure = Failure.OUT_OF_MEMORY if memory else Failure.HOST_LOST
            detail = f"its process was ended by {signal.Signals(-code).name} from outside"
        else:
            failure = Failure.CRASH
            ended = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
            detail = f"its process ended {ended}"
            if not worker.ready:
                raise SearchPaused(f"a worker ended {ended} before its evaluator was open")
        return self._failed(worker, failure, detail)

    def _over_time(self, worker: _Worker) -> Result | None:
        if not worker.task or worker.begun is None or self._timeout is None:
            return None
        seconds = time.monotonic() - worker.begun
        if seconds <= self._timeout:
            return None
        self._end(worker)
        return self._failed(worker, Failure.TIMEOUT, f"its process was killed after {seconds:.0f} s")

    def _over_memory(self) -> Result | None:
        """Ends the largest child where all together take more memory than they may."""
        taken = {id(worker): own_memory(worker.process.pid) for worker in self._workers}
        busy = [worker for worker in self._workers if worker.task]
        if not busy or sum(taken.values()) <= self._memory:
            return None
        largest = max(busy, key=lambda worker: taken[id(worker)])
        self._end(largest)
        own, together, limit = (
            f"{size / 1e9:.2f}" for size in (taken[id(largest)], sum(taken.values()), self._memory)
        )
        detail = (
            f"its process was killed when it took {own} GB and all workers {together} GB, "
            f"above executor.memory_gb = {limit}"
        )
        return self._failed(largest, Failure.OUT_OF_MEMORY, detail)

    def _failed(self, worker: _Worker, failure: Failure, detail: str) -> Result | None:
        """The result of an ended worker's task, if it had one."""
        task, worker.task = worker.task, None
        if task is None:
            return None
        worker.device.remove(task.proposal.number)
        seconds = 0.0 if worker.begun is None else time.monotonic() - worker.begun
        return Result(task.proposal, failure=failure, detail=detail, seconds=seconds, site=worker.site)

    def _end(self, worker: _Worker) -> int:
        """Kills a worker, if it has not ended, and forgets it; its exit code, or minus the signal."""
        self._workers.remove(worker)
        worker.process.kill()  # which changes nothing of a process that is ending already
        worker.pipe.close()
        return worker.process.wait()


def _pickled(value: Any) -> bytes:
    try:
        return bytes(ForkingPickler.dumps(value))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ConfigError(f"{KEY}executor = process: the evaluator cannot be pickled: {error}") from None


def _send(pipe: Connection, message: bytes) -> None:
    with contextlib.suppress(OSError):  # the worker is gone, which the next poll finds
        pipe.send_bytes(message)


def _gpus(device: str) -> list[str | None]:
    """The GPUs that children are spread over, as `Device.gpu`; none on the CPU."""
    if resolve_device(device).type != "cuda":
        return []
    if ":" in device:
        return [None]
    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    return list(names.split(",")) if names else [str(index) for index in range(torch.cuda.device_count())]
