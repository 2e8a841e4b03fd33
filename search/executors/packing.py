"""Which tasks run beside each other: by slots and by the memory that they are predicted to need.

A device is the CPU with the machine's memory, or one GPU. Memory is in bytes of this machine; what a child
takes on a GPU is bounded by the slots alone.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from backbones.ranges import KEY, ConfigError
from backbones.words import counted
from search.messages import ChildTask


@dataclass
class Packed:
    """A task on its device. memory: predicted bytes."""

    task: ChildTask
    memory: int
    running: bool = False


@dataclass
class Device:
    """Slots of one device and the tasks in them, in the order in which they came.

    memory: bytes for its children together; None: not bounded. gpu: as CUDA_VISIBLE_DEVICES names it; None:
    the CPU, or whatever the evaluator takes.
    """

    slots: int
    memory: int | None = None
    gpu: str | None = None
    tasks: list[Packed] = field(default_factory=list)

    def free(self) -> int:
        """Slots for further tasks; none beside a task that is to be alone."""
        return 0 if any(packed.task.alone for packed in self.tasks) else self.slots - len(self.tasks)

    def start(self) -> list[ChildTask]:
        """The tasks that start now; they count as running from here on.

        None overtakes another, or a large child would never find enough memory. Where nothing else runs a
        task starts whatever it needs."""
        started = []
        running = [packed for packed in self.tasks if packed.running]
        taken = sum(packed.memory for packed in running)
        for packed in self.tasks:
            if packed.running:
                continue
            fits = self.memory is None or taken + packed.memory <= self.memory
            if running and (packed.task.alone or not fits):
                break
            packed.running = True
            running.append(packed)
            taken += packed.memory
            started.append(packed.task)
        return started

    def remove(self, number: int) -> None:
        """Forgets the task of that proposal, if it is there."""
        self.tasks = [packed for packed in self.tasks if packed.task.proposal.number != number]


def devices(
    workers: int | None,
    workers_per_gpu: int,
    gpus: Sequence[str | None],
    cores: int,
    threads: int,
    memory: int,
) -> list[Device]:
    """The devices of this machine, as the keys of `ProcessConfig` divide them.

    gpus: those that children share, as `Device.gpu`; empty: children run on the CPU.
    cores, memory: of the CPU. threads: of a child. Raises ConfigError for more workers than the GPUs have
    slots.
    """
    if not gpus:
        return [Device(max(1, cores // threads) if workers is None else workers, memory)]
    slots = workers_per_gpu * len(gpus)
    if workers is not None and workers > slots:
        raise ConfigError(
            f"{KEY}workers = {workers}, but {counted(len(gpus), 'GPU')} with {KEY}workers_per_gpu = "
            f"{workers_per_gpu} hold {slots}"
        )
    taken = (list(gpus) * workers_per_gpu)[:workers]
    return [Device(taken.count(gpu), gpu=gpu) for gpu in gpus if gpu in taken]


def available_memory() -> int:
    """Bytes that children may take: the least that the machine and the control groups (v2) still have."""
    meminfo = Path("/proc/meminfo").read_text()
    free = [1024 * int(line.split()[1]) for line in meminfo.splitlines() if line.startswith("MemAvailable")]
    _, _, group = Path("/proc/self/cgroup").read_text().rpartition("0::")
    folder = Path("/sys/fs/cgroup") / group.strip().lstrip("/")
    for each in (folder, *folder.parents):
        limit = each / "memory.max"
        if limit.is_file() and (most := limit.read_text().strip()) != "max":
            free.append(int(most) - int((each / "memory.current").read_text()))
    return min(free)


def own_memory(pid: int) -> int:
    """Resident bytes that a process shares with no file: heap and tensors. 0 where it is gone.

    Mapped images and libraries are not among them: the kernel can drop those, and has them once for all."""
    try:
        _, resident, shared, *_ = Path(f"/proc/{pid}/statm").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")


def kernel_kills() -> int:
    """Processes that the kernel of this machine has ended for want of memory since it started."""
    lines = Path("/proc/vmstat").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
