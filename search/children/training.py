"""Trains one child network for a short time; its accuracy on held-out training images is the reward.

Source: 1707.07012, appendix A.1 (N = 2, 20 epochs, momentum 0.9, L2, one cosine period; 5,000 of 50,000
held out). Filters, learning rate, batch size and the size of the L2 term are not stated there.
"""

import contextlib
import math
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR

from backbones.genotype import Genotype
from backbones.network import NASNet
from classification.device_images import DeviceImages
from classification.optimizers import cosine, decay_groups
from runtime.device import deterministic_kernels, resolve_device, torch_threads
from search.children.attempt import report_progress
from search.children.config import ChildConfig
from search.children.images import ChildImages
from search.messages import TRAINING_METRICS, ChildFailed, ChildTask, Failure, Result


def train_child(genotype: Genotype, task: ChildTask, images: ChildImages, config: ChildConfig) -> Result:
    """Trains one child; `reward` is its accuracy on the held-out images after the last epoch, in [0, 1].

    Metrics: `accuracy`, which is the reward, and `epochs`, fewer than planned if `stop_below` ended it.
    All chance derives from `task.seed`. What is trained is the canonical form, so that equal cells get equal
    rewards. Raises ChildFailed when the time is over or the loss is not finite.
    """
    start, cpu_start = time.monotonic(), time.process_time()
    device = resolve_device(config.device)
    with repeatable(config, device):
        _reset_peak(device)
        torch.manual_seed(task.seed)
        network = child_network(genotype, config, images.num_classes, device)
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
                report_progress(epoch + (step + 1) / steps, config.epochs)
            # Read once per epoch: every look at a loss waits for the device.
            if not math.isfinite(losses.item()):
                raise ChildFailed(Failure.NOT_FINITE, f"the loss was {losses.item()} in epoch {epoch}")
            curve.append(_accuracy(network, images, config))
            if curve[-1] < (config.stop_below or {}).get(epoch + 1, 0):
                break
    return Result(
        task.proposal,
        reward=curve[-1],
        curve=tuple(curve),
        seconds=time.monotonic() - start,
        cpu_seconds=time.process_time() - cpu_start,
        peak_bytes=_peak_bytes(device),
        metrics=dict(zip(TRAINING_METRICS, (curve[-1], len(curve)), strict=True)),
    )


@contextlib.contextmanager
def repeatable(config: ChildConfig, device: torch.device) -> Iterator[None]:
    """Runs the block with the threads and kernels of a child, and leaves torch's own chance as it was."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch_threads(config.threads))
        stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
        if config.deterministic:
            stack.enter_context(deterministic_kernels())
        yield


def child_network(genotype: Genotype, config: ChildConfig, num_classes: int, device: torch.device) -> NASNet:
    """As the paper's children start: TF's rule for the classifier, too."""
    network = NASNet(config.spec(genotype.canonical()), num_classes, head_init="fan_out").to(device)
    return network.to(memory_format=torch.channels_last) if config.channels_last else network


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
    loss = functional.cross_entropy(logits(network, pixels, config), labels)
    optimizer.zero_grad()
    loss.backward()
    if config.clip_norm is not None:
        torch.nn.utils.clip_grad_norm_(network.parameters(), config.clip_norm)
    optimizer.step()
    schedule.step()
    return loss.detach()


def logits(network: NASNet, pixels: Tensor, config: ChildConfig) -> Tensor:
    """`[M, classes]` float32, computed as `config` says. pixels: in channels-last order."""
    if not config.channels_last:
        pixels = pixels.contiguous()
    with torch.autocast(pixels.device.type, torch.bfloat16, enabled=config.precision == "bf16-mixed"):
        return network(pixels).float()


@torch.inference_mode()
def _accuracy(network: NASNet, images: ChildImages, config: ChildConfig) -> float:
    # Batches as in training: four times as many images need more memory than a training step.
    network.eval()
    hits = torch.zeros((), dtype=torch.int64, device=images.images.labels.device)
    for start in range(0, len(images.validation), config.batch_size):
        chosen = images.validation[start : start + config.batch_size]
        pixels, labels = images.images.batch(chosen, epoch=0, seed=0, train=False)
        hits += (logits(network, pixels, config).argmax(dim=1) == labels).sum()
    network.train()
    return int(hits) / len(images.validation)


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _CLEAR_REFS.exists():
        _CLEAR_REFS.write_text("5")  # proc(5): resets VmHWM


def _peak_bytes(device: torch.device) -> int | None:
    """High-water mark since the reset: of the allocator on CUDA, of the process without files on Linux."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if not _STATUS.exists():
        return None
    lines = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
    peak, files = (int(lines[name].split()[0]) for name in ("VmHWM", "RssFile"))
    return 1024 * (peak - files)  # mapped images and libraries, which all processes share


_CLEAR_REFS, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
