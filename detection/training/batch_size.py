"""The largest batch that a device holds: found once, kept in the run's folder.

On a CUDA device by trying whole steps; on a CPU, which gives no error before the machine is in trouble, by
counting what steps on one and on two images keep for their backward passes.
"""

import logging
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec
import torch
from torch import Tensor

from backbones.files import decode_json, write_json
from backbones.ranges import KEY, ConfigError
from detection.engines.base import Engine
from detection.formats import Target

log = logging.getLogger(__name__)

FILE = "batch_size.json"
SHARE = 0.85
"""Of the free memory, what a step may fill: other batches match and sample more than the one tried."""
WORKSPACE = 2.0
"""Memory of a step on a CPU, of what it keeps for the backward pass: gradients of maps come on top."""


class _Kept(msgspec.Struct):
    batch_size: Annotated[int, msgspec.Meta(ge=1)]


def kept_batch_size(folder: Path) -> int | None:
    """What a run found when it began; None for one that has not, or did not have to.

    Raises ValueError that names the file where it is damaged."""
    path = folder / FILE
    if not os.path.lexists(path):
        return None
    try:
        return decode_json(path, _Kept, "batch size").batch_size
    except ValueError as error:
        raise ValueError(f"{error}; restore it, or delete it to find the batch size again") from None


def keep_batch_size(folder: Path, batch_size: int, engine_device: torch.device) -> None:
    write_json(folder / FILE, {"batch_size": batch_size, "device": str(engine_device)})


def largest_batch(
    engine: Engine,
    device: torch.device,
    *,
    most: int,
    height: int,
    width: int,
    average: bool = False,
    precision: str = "32-true",
) -> int:
    """Most images, 1..`most`, of which a training step fits; weights and statistics stay as they are.

    height, width: to which the training's largest batch is padded. average: of the weights, is kept, too.
    Raises ValueError where not even one image fits."""
    extra = (2 + average) * sum(p.numel() * p.element_size() for p in engine.parameters())

    def step(images: int) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision != "32-true"):
            losses = engine.losses(*_batch(images, height, width, device))
        torch.stack(list(losses.values())).sum().backward()

    engine.to(device).train()
    with _as_it_was(engine):
        if device.type == "cuda":
            found = _largest(lambda images: _fits_on_cuda(step, images, extra, device), most)
        else:
            found = _largest_on_cpu(step, extra, most)
    if not found:
        raise ConfigError(
            f"{KEY}recipe.batch_size = auto: not even a step on one image of {height}x{width} px fits into "
            f"the memory of {device}; make {KEY}data.min_sizes, {KEY}data.max_size or the network smaller"
        )
    log.info("batch size %d: the most images of %dx%d px that fit", found, height, width)
    return found


def _largest(fits: Callable[[int], bool], most: int) -> int:
    """Largest number in 0..most that fits, where all below one that fits do, too: doubling, then halving."""
    good, bad = 0, most + 1
    while bad - good > 1:
        trial = min(max(1, 2 * good), most) if bad > most else (good + bad) // 2
        good, bad = (trial, bad) if fits(trial) else (good, trial)
    return good


def _fits_on_cuda(step: Callable[[int], None], images: int, extra: int, device: torch.device) -> bool:
    torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info(device)[0]
    try:
        # What the optimiser will hold, and the share that is to stay free.
        _ballast = torch.empty(extra + math.ceil((1 - SHARE) * free), dtype=torch.uint8, device=device)
        step(images)
    except torch.OutOfMemoryError:
        return False
    return True


def _largest_on_cpu(step: Callable[[int], None], extra: int, most: int) -> int:
    sizes = []
    for images in (1, 2):
        with _counted() as kept:
            step(images)
        sizes.append(kept[0])
    for_one = WORKSPACE * max(1, sizes[1] - sizes[0])
    free = SHARE * available_memory() - extra - WORKSPACE * sizes[0]
    return 0 if free < 0 else min(most, 1 + int(free / for_one))


def available_memory() -> int:
    """Bytes that this machine can give without taking them from others."""
    information = Path("/proc/meminfo")
    if information.is_file():
        for line in information.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _batch(images: int, height: int, width: int, device: torch.device) -> tuple[list[Tensor], list[Target]]:
    """Noise with one object in each image."""
    draws = torch.Generator().manual_seed(0)
    pixels = [torch.rand(3, height, width, generator=draws).to(device) for _ in range(images)]
    box = torch.tensor([[0.25, 0.25, 0.75, 0.75]], device=device)
    box = box * torch.tensor([width, height] * 2, device=device)
    label = torch.zeros(1, dtype=torch.int64, device=device)
    return pixels, [{"boxes": box, "labels": label, "seed": number} for number in range(images)]


@contextmanager
def _counted() -> Iterator[list[int]]:
    """Bytes that are kept for a backward pass, each storage once; the weights are among them."""
    total, seen = [0], set()

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            total[0] += storage.nbytes()
        return tensor

    def unpack(tensor: Tensor) -> Tensor:
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield total


@contextmanager
def _as_it_was(engine: Engine) -> Iterator[None]:
    buffers: dict[str, Any] = {name: buffer.clone() for name, buffer in engine.named_buffers()}
    try:
        with torch.random.fork_rng():
            yield
    finally:
        engine.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, buffer in engine.named_buffers():
                buffer.copy_(buffers[name])
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
