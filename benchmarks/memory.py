"""Memory of a training step: what lives on between forward and backward pass, and a process's peak.

python -m benchmarks.memory lean --batch 8     bytes that two steps add to a fresh process (Linux)
"""

import argparse
import re
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from backbones.arguments import whole
from backbones.network import NASNet
from backbones.spec import ACTIVATION_MEMORY
from backbones.zoo import ZOO
from benchmarks.peers import public, training_step

STATUS = Path("/proc/self/status")
REPOSITORY = Path(__file__).resolve().parent.parent


class _Made(TorchDispatchMode):
    """Every storage that an operator returned and that lives, by its address.

    A storage keeps its Python object alive for as long as it lives itself, so weak references will do.
    """

    def __init__(self) -> None:
        super().__init__()
        self.storages: weakref.WeakValueDictionary[int, torch.UntypedStorage] = weakref.WeakValueDictionary()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        results = function(*args, **(kwargs or {}))
        for value in tree_leaves(results):
            if isinstance(value, Tensor):
                storage = value.untyped_storage()
                self.storages[storage._cdata] = storage
        return results


def saved_bytes(net: nn.Module, images: Tensor) -> int:
    """Bytes that live on after the forward pass because the backward pass needs them, the logits included.

    Parameters, buffers and the images are there anyway. Counted by what is alive, not by autograd's hooks:
    those do not see what a checkpoint keeps.
    """
    there = {value.untyped_storage()._cdata for value in (*net.parameters(), *net.buffers(), images)}
    with _Made() as made:
        logits = net(images)
    saved = sum(storage.nbytes() for key, storage in made.storages.items() if key not in there)
    del logits
    return saved


def resident_bytes(way: str, batch: int, threads: int) -> int:
    """Of `python -m benchmarks.memory`, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.memory", way, f"--batch={batch}", f"--threads={threads}"]
    done = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout)


def _status(field: str) -> int:
    """Bytes of the process: VmRSS resident now, VmHWM at most.

    Not `ru_maxrss`, which begins at the parent's peak.
    """
    found = re.search(rf"^{field}:\s+(\d+) kB$", STATUS.read_text(), re.MULTILINE)
    assert found is not None
    return 1024 * int(found[1])


def _added_by_two_steps(way: str, batch: int) -> int:
    """The second step has the gradients' and the momentum's memory too."""
    net: nn.Module
    images = torch.randn(batch, 3, 224, 224)
    if way == "peer":
        net = public("mobile")
    else:
        own = NASNet(ZOO["nasnet_a_mobile"]).to(memory_format=torch.channels_last)
        own.set_activation_memory(way)
        net, images = own, images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(1000, (batch,))
    step = training_step(net, images, labels)
    before = _status("VmRSS")
    for _ in range(2):
        step()
    return _status("VmHWM") - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("way", choices=("peer", *ACTIVATION_MEMORY))
    parser.add_argument("--batch", type=whole(1), default=8)
    parser.add_argument("--threads", type=whole(1), default=2)
    args = parser.parse_args()
    if not STATUS.exists():
        sys.exit(f"no {STATUS}: the peak of a process is read there, on Linux")
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    print(_added_by_two_steps(args.way, args.batch))


if __name__ == "__main__":
    main()
