"""What the processes of one training agree on; with one process, each answer is its own.

`rank` and `world` hold while a process group exists, `launched_rank` from the start of the process.
"""

import os
import threading
import time
from typing import Any

import torch
from torch import distributed, nn

_control: Any = None


def world() -> int:
    return distributed.get_world_size() if _joined() else 1


def rank() -> int:
    return distributed.get_rank() if _joined() else 0


def gather(value: Any) -> list[Any]:
    """The values of all ranks, in their order; every rank must call it. Tensors must be on CPU."""
    if world() == 1:
        return [value]
    values: list[Any] = [None] * world()
    distributed.all_gather_object(values, value, group=_group())
    return values


def any_rank(*flags: bool) -> tuple[bool, ...]:
    """For each flag, whether it is set in any rank; every rank must call it. It waits for no device."""
    if world() == 1:
        return flags
    sums = torch.tensor(flags, dtype=torch.int32)
    distributed.all_reduce(sums, group=_group())
    return tuple(bool(total) for total in sums)


def broadcast_buffers(module: nn.Module) -> None:
    """Gives all ranks the buffers, such as batch norm's statistics, of rank 0."""
    if world() > 1:
        for buffer in module.buffers():
            distributed.broadcast(buffer, src=0)


def launched_rank() -> int:
    """This process's rank as its launcher set it; 0 where there is none."""
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):  # torchrun's, Lightning's, SLURM's
        if name in os.environ:
            return int(os.environ[name])
    return 0


def launched_by_torchrun() -> int | None:
    """How many processes torchrun started in all, None where it did not."""
    return int(os.environ["WORLD_SIZE"]) if distributed.is_torchelastic_launched() else None


def launched_by_lightning() -> bool:
    """Whether the trainer of another process started this one and waits for it."""
    return launched_by_torchrun() is None and int(os.environ.get("LOCAL_RANK", 0)) > 0


def end_with_parent(parent: int | None = None) -> None:
    """Ends this process when the one that started it is gone, however that ended.

    parent: its process id, which may be gone already; None: that of now."""
    parent = os.getppid() if parent is None else parent

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="end with parent").start()


def _joined() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def _group() -> Any:
    """A group that talks through the CPU: small agreements must not wait for what a GPU still computes."""
    global _control
    if distributed.get_backend() == "gloo":
        return None
    if _control is None:
        _control = distributed.new_group(backend="gloo")
    return _control
