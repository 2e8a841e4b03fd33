"""Trains one child network for a short time; its accuracy on held-out training images is the reward.

The split: the images of the *train* files only, divided by the search seed; test files are never opened.
The whole set lies on the device as bytes (see `classification.device_images`); a batch is one gather.
Source: 1707.07012, appendix A.1 (N = 2, 20 epochs, momentum 0.9, L2, one cosine period; 5,000 of 50,000
held out). Filters, learning rate, batch size and the size of the L2 term are not stated there.
"""

import hashlib
import math
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR

from backbones.costs import profile
from backbones.genotype import Genotype
from backbones.network import NASNet
from classification.config import ImageDataConfig
from classification.data import ImageSet, open_images, stratified
from classification.device_images import DeviceImages
from classification.optimizers import cosine, decay_groups
from runtime.device import resolve_device, torch_threads
from runtime.random import derive
from search.children.attempt import attempt
from search.config import ChildConfig
from search.messages import ChildFailed, ChildTask, Failure, Result


@dataclass(frozen=True)
class ChildImages:
    """Images of the training files on the device, and the indices `[N]` of those that train and that score.

    record: what the ledger keeps of the split; a search continues only on the same one.
    """

    images: DeviceImages
    num_classes: int
    training: np.ndarray
    validation: np.ndarray
    record: dict[str, int | str]

    @classmethod
    def open(cls, data: ImageDataConfig, child: ChildConfig, seed: int) -> "ChildImages":
        """Raises ValueError or FileNotFoundError for what is wrong with the data set."""
        images = open_images(data, "train")
        training, validation = split(images, child, seed)
        used = np.sort(np.concatenate([training, validation]))
        device = resolve_device(child.device)
        resident = DeviceImages.from_config(images, data, child.image_size, device, used)
        digest = hashlib.sha256(b"".join(part.tobytes() for part in (images.labels, training, validation)))
        record: dict[str, int | str] = {
            "training": len(training),
            "validation": len(validation),
            "sha256": digest.hexdigest(),
        }
        # From here on an index counts the images on the device.
        places = np.searchsorted(used, training), np.searchsorted(used, validation)
        return cls(resident, len(images.classes), *places, record)


def split(images: ImageSet, child: ChildConfig, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Ascending indices of the images that train and of those that score; a function of labels and seed."""
    held_out = max(1, round(len(images) / 10)) if child.validation is None else child.validation
    used = len(images) - held_out if child.training is None else child.training
    if not child.batch_size <= used <= len(images) - held_out:
        raise ValueError(
            f"{images.source}: {len(images)} training images, of which {held_out} are held out and {used} "
            f"are to train a child; they must exist and fill a batch of child.batch_size = {child.batch_size}"
        )
    validation = stratified(images.labels, held_out, derive(seed, "validation split"))
    others = np.setdiff1d(np.arange(len(images)), validation)
    chosen = stratified(images.labels[others], used, derive(seed, "training split"))
    return others[chosen], validation


class ChildTrainer:
    """The evaluator of a search that names no other: `train_child` with its images and settings."""

    def __init__(self, config: ChildConfig, images: ChildImages):
        self._config, self._images = config, images

    def __call__(self, genotype: Genotype, task: ChildTask) -> Result:
        return train_child(task, self._images, self._config)

    def predicted_microseconds(self, genotype: Genotype) -> int:
        images = len(self._images.training)
        return predicted_microseconds(genotype, self._config, images, self._images.num_classes)


def predicted_microseconds(
    genotype: Genotype, config: ChildConfig, images: int, num_classes: int = 10
) -> int:
    """Training time of a child on `images` images, on the CPU core that the two rates were fitted to.

    Only ratios between children matter (see `search.loop`). Fitted to one step of 64 images of 21 random
    children (8 and 16 filters, 16 and 32 px, 1 and 2 cells per stage): off by 12 % (one sigma).
    """
    costs = profile(config.spec(genotype.canonical()), num_classes=num_classes)
    seconds = costs.multiply_adds / MULTIPLY_ADDS_PER_SECOND + costs.activation_bytes / BYTES_PER_SECOND
    return max(1, round(1e6 * seconds * config.epochs * images))


MULTIPLY_ADDS_PER_SECOND, BYTES_PER_SECOND = 1.15e10, 5.35e8


def train_child(task: ChildTask, images: ChildImages, config: ChildConfig) -> Result:
    """Trains one child; `reward` is its accuracy on the held-out images after the last epoch, in [0, 1].

    Never raises for what the child did: it comes back in `Result.failure`. All chance derives from
    `task.seed`. What is trained is the canonical form, so that equal cells get equal rewards.
    """
    return attempt(lambda: _train(task, images, config), task)


def _train(task: ChildTask, images: ChildImages, config: ChildConfig) -> Result:
    start = time.monotonic()
    device = resolve_device(config.device)
    devices = [device] if device.type == "cuda" else []
    with torch_threads(config.threads), torch.random.fork_rng(devices):
        _reset_peak(device)
        torch.manual_seed(task.seed)
        network = NASNet(config.spec(task.proposal.genotype.canonical()), images.num_classes)
        network = network.to(device).to(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(
            decay_groups(network, config.weight_decay), lr=config.lr, momentum=config.momentum
        )
        steps = len(images.training) // config.batch_size
        schedule = LambdaLR(optimizer, partial(cosine, steps=steps * config.epochs))
        curve = []
        for epoch in range(config.epochs):
            order = torch.randperm(len(images.training)).numpy()
            losses = torch.zeros((), device=device)
            for step in range(steps):
                if config.timeout_seconds and time.monotonic() - start > config.timeout_seconds:
                    raise ChildFailed(
                        Failure.TIMEOUT,
                        f"{config.timeout_seconds:g} s were over at epoch {epoch}, step {step} of {steps}",
                    )
                chosen = images.training[order[step * config.batch_size :][: config.batch_size]]
                losses += _step(network, optimizer, schedule, images.images, chosen, epoch, task.seed, config)
            # Read once per epoch: every look at a loss waits for the device.
            if not math.isfinite(losses.item()):
                raise ChildFailed(Failure.NOT_FINITE, f"the loss was {losses.item()} in epoch {epoch}")
            curve.append(_accuracy(network, images, 4 * config.batch_size))
    return Result(
        task.proposal,
        reward=curve[-1],
        curve=tuple(curve),
        seconds=time.monotonic() - start,
        peak_bytes=_peak_bytes(device),
    )


def _step(
    network: NASNet,
    optimizer: torch.optim.Optimizer,
    schedule: LambdaLR,
    images: DeviceImages,
    chosen: np.ndarray,
    epoch: int,
    seed: int,
    config: ChildConfig,
) -> Tensor:
    pixels, labels = images.batch(chosen, epoch=epoch, seed=seed, train=True)
    loss = functional.cross_entropy(network(pixels), labels)
    optimizer.zero_grad()
    loss.backward()
    if config.clip_norm is not None:
        torch.nn.utils.clip_grad_norm_(network.parameters(), config.clip_norm)
    optimizer.step()
    schedule.step()
    return loss.detach()


@torch.inference_mode()
def _accuracy(network: NASNet, images: ChildImages, batch_size: int) -> float:
    network.eval()
    hits = 0
    for start in range(0, len(images.validation), batch_size):
        chosen = images.validation[start : start + batch_size]
        pixels, labels = images.images.batch(chosen, epoch=0, seed=0, train=False)
        hits += int((network(pixels).argmax(dim=1) == labels).sum())
    network.train()
    return hits / len(images.validation)


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _CLEAR_REFS.exists():
        _CLEAR_REFS.write_text("5")  # proc(5): resets VmHWM


def _peak_bytes(device: torch.device) -> int | None:
    """High-water mark since the reset: of the allocator on CUDA, of the whole process elsewhere on Linux."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if not _STATUS.exists():
        return None
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


_CLEAR_REFS, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
