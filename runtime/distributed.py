"""What the processes of one training agree on; with one process, each answer is its own.

`rank` and `world` hold while a process group exists, `runtime.launch` from the start of the process.
"""

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
