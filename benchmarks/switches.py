"""What single levers are worth: our network as it is against the same without one of them, as the peer.

A lever that has no switch in the library is taken away from outside, for the calls that are timed.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TypeVar
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones import cell, fused, fused_operations, layers, network, norm
from backbones.network import NASNet
from backbones.timing import interleaved
from benchmarks.peers import IN_FLOAT64, check_equal, gradients, pair, training_step
from benchmarks.ratios import Row, compare

Result = TypeVar("Result")
Patch = tuple[object, str, object]
CHANNELS_LAST = torch.channels_last


class ReadAnew(cell.State):
    """A state whose ReLU and pools every reader computes for itself."""

    @property
    def relu(self) -> Tensor:
        return F.relu(self.raw)

    def through(self, layers: nn.Module) -> Tensor:
        return layers(self.read_by(layers))


UNSHARED: list[Patch] = [(cell, "State", ReadAnew), (network, "State", ReadAnew)]
FUSED: dict[str, list[Patch]] = {
    "depthwise convolutions side by side": [(fused, "MERGE_UP_TO_ROWS", 0)],
    "convolution instead of product from 1,700 pixels on": [(fused_operations, "CONVOLVE_FROM_ROWS", 10**12)],
}
"""Of the fused network."""
TRAINING: dict[str, list[Patch]] = {
    "states read once": UNSHARED,
    "1x1 convolutions of few pixels as products": [(layers, "PRODUCT_UP_TO_PIXELS", 0)],
    "batch norm of few channels": [(norm, "is_narrow", lambda x: False)],
}


def without(run: Callable[[], Result], patches: list[Patch]) -> Callable[[], Result]:
    """The call with attributes of modules replaced while it runs."""

    def patched() -> Result:
        with ExitStack() as stack:
            for module, name, value in patches:
                stack.enter_context(patch.object(module, name, value))
            return run()

    return patched


def both(work: str, lever: str, rounds: int, run: Callable[[], object], other: Callable[[], object]) -> Row:
    """A row, whose peer is `other`: the same without the lever."""
    (row,) = compare(work, interleaved({"without": other, lever: run}, rounds), {})
    return row


@torch.inference_mode()
def inference(batch: int, rounds: int) -> Iterator[Row]:
    _, own, size = pair("mobile")
    work = f"inference, mobile {size}, batch {batch}"
    images = torch.randn(batch, 3, size, size)
    pixels = images.contiguous(memory_format=CHANNELS_LAST)
    plain, fast = copy.deepcopy(own).to(memory_format=torch.contiguous_format), own.fuse()

    def run_own() -> Tensor:
        return own(pixels)

    def run_fused() -> Tensor:
        return fast(pixels)

    levers: dict[str, tuple[Callable[[], Tensor], Callable[[], Tensor]]] = {
        "channels-last": (run_own, lambda: plain(images)),
        "states read once": (run_own, without(run_own, UNSHARED)),
        "fuse": (run_fused, run_own),
    }
    levers |= {lever: (run_fused, without(run_fused, patches)) for lever, patches in FUSED.items()}
    expected = {"logits": run_own()}
    for lever, (run, other) in levers.items():
        check_equal(work, f"without {lever}", {"logits": other()}, expected)
        yield both(work, lever, rounds, run, other)


def training(batch: int, rounds: int) -> Iterator[Row]:
    _, own, size = pair("mobile")
    work = f"training step, mobile {size}, batch {batch}"
    images, labels = torch.randn(batch, 3, size, size), torch.randint(own.num_classes, (batch,))
    pixels = images.contiguous(memory_format=CHANNELS_LAST)
    expected = gradients(own, pixels, labels)

    def step_of(net: NASNet, batch: Tensor) -> Callable[[], None]:
        return training_step(copy.deepcopy(net), batch, labels)

    for lever, patches in TRAINING.items():
        found = without(lambda: gradients(own, pixels, labels), patches)()
        check_equal(work, f"without {lever}", found, expected, IN_FLOAT64)
        yield both(work, lever, rounds, step_of(own, pixels), without(step_of(own, pixels), patches))
    plain = copy.deepcopy(own).to(memory_format=torch.contiguous_format)
    check_equal(work, "without channels-last", gradients(plain, images, labels), expected, IN_FLOAT64)
    yield both(work, "channels-last", rounds, step_of(own, pixels), step_of(plain, images))
