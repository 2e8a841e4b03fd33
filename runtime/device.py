"""The device that a name asks for, checked before anything long starts; what its last bits depend on."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from backbones.ranges import KEY, ConfigError
from runtime.config import check_device_name


def resolve_device(name: str) -> torch.device:
    """`auto`: cuda where there is one, else cpu; else `cpu`, `cuda` or `cuda:<number>`.

    Raises ConfigError, of a key `device`, where it is no such name, or this machine has no such device.
    """
    check_device_name(name)
    cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if cards else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= cards:
        found = f"the {cards} CUDA devices here count from 0" if cards else "there is no CUDA device here"
        raise ConfigError(f"{KEY}device = {name!r}, but {found}; expected auto, cpu, cuda or cuda:<number>")
    return device


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Runs the block with `count` CPU threads in torch: sums change in their last bits with the count."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def deterministic_kernels() -> Iterator[None]:
    """Runs the block with such kernels alone as give equal bits each time on one model of GPU.

    An operation that has none raises RuntimeError. cuBLAS reads its setting once per process, at its first
    product; a value that the user has set stays.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.get_deterministic_debug_mode()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)
