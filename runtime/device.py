"""The device that a name asks for, checked before anything long starts."""

import torch


def resolve_device(name: str) -> torch.device:
    """`auto`: cuda where there is one, else cpu; else `cpu`, `cuda` or `cuda:<number>`.

    Raises ValueError naming the value where it is no such name, or this machine has no such device.
    """
    cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if cards else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ValueError(f"device = {name!r}, expected auto, cpu, cuda or cuda:<number>")
    if device.type == "cuda" and (device.index or 0) >= cards:
        found = f"the {cards} CUDA devices here count from 0" if cards else "there is no CUDA device here"
        raise ValueError(f"device = {name!r}, but {found}; expected auto, cpu, cuda or cuda:<number>")
    return device
