"""What PyTorch finds on this machine, as JSON. Runs in a process of its own: a broken installation may crash
it, and a broken driver may let it hang."""

import json
import subprocess
import sys
from typing import Any

from celltransfer import ROOT

SECONDS = 120.0
"""Longest time for the imports and the small computation, which take seconds from a slow disk."""


def probe() -> dict[str, Any]:
    """What `found` prints in another process. Raises ValueError that says why there is no answer."""
    code = "from pipeline.torch_probe import main; main()"
    # -P: a torch.py in the user's folder is not PyTorch.
    command = [sys.executable, "-P", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {code}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        raise ValueError(f"PyTorch gave no answer within {SECONDS:.0f} s") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise ValueError(f"PyTorch does not work here: {lines[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def found() -> dict[str, Any]:
    """Devices, and that a small network trains on the one that `device=auto` takes.

    devices: name and bytes of memory of each CUDA device. cuda: the version that PyTorch was built with, or
    None. auto: name of the device. threads: of a CPU's operations. Raises what PyTorch raises."""
    import torch
    import torchvision

    from runtime.device import resolve_device

    cuda = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    device = resolve_device("auto")
    layer = torch.nn.Conv2d(3, 4, 3).to(device)
    layer(torch.ones(1, 3, 8, 8, device=device)).sum().backward()
    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0]], device=device)
    kept = torchvision.ops.nms(boxes, torch.ones(1, device=device), 0.5)  # fails where the two do not fit
    return {
        "devices": [[one.name, one.total_memory] for one in cuda],
        "cuda": torch.version.cuda,
        "auto": str(device),
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "works": bool(layer.weight.grad is not None and len(kept) == 1),
    }


def main() -> None:
    print(json.dumps(found()))
