"""Where this process runs, and what decides the last bits of its numbers."""

import functools
import os
import socket

import torch

from search.messages import Site


def here(device: str = "cpu") -> Site:
    """This process, with the device that it uses."""
    host = _host()
    return Site(host, host, os.getpid(), _device_name(device), torch.__version__, capability(device))


@functools.cache
def _host() -> str:
    return socket.gethostname()


@functools.cache
def _device_name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu"


@functools.cache
def capability(device: str = "cpu") -> str:
    """The instruction set that PyTorch uses on the CPU (`AVX2`, `AVX512`), or the GPU's architecture."""
    if device.startswith("cuda"):
        major, minor = torch.cuda.get_device_capability(device)
        return f"sm_{major}{minor}"
    return torch.backends.cpu.get_cpu_capability()
