"""Training on small images in memory: ours against a plain script, and Lightning's loop against a bare one.

The network is NASNet-A with one cell a stage and 16 filters, on 32 px; the images are noise, 64 in a batch.
"""

import copy
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from backbones.network import NASNet
from backbones.timing import interleaved
from backbones.zoo import ZOO
from benchmarks.ratios import Row, compare, milliseconds
from classification.callbacks import L2Gradient
from classification.config import RecipeConfig
from classification.device_images import DeviceBatches, DeviceImages
from classification.module import ClassificationModule, classification_loss
from classification.optimizers import build_optimizer, build_schedule
from runtime.config import TrainerConfig
from runtime.folder import RunFolder
from runtime.loading import ResumableLoader
from runtime.progress_callback import ProgressCallback
from runtime.trainer import build_trainer

RESIDENT, OVERHEAD = "training on small images, plain script with {} workers", "training step, bare loop"
WORKERS = (0, 2)
GOALS = {(RESIDENT.format(workers), "ours"): 1.5 for workers in WORKERS} | {(OVERHEAD, "ours"): 1 / 1.03}
BATCH = 64


class PlainImages(Dataset[tuple[Tensor, int]]):
    """As torchvision's CIFAR10: arrays that become PIL images when they are asked for."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images, self.labels = images, labels
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])


def plain_epoch(network: nn.Module, loader: DataLoader[Any], recipe: RecipeConfig) -> Callable[[], None]:
    """What a user writes without a framework: PIL images, plain layout, SGD."""
    optimizer = torch.optim.SGD(
        network.parameters(), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )
    loss = nn.CrossEntropyLoss()

    def epoch() -> None:
        network.train()
        for images, labels in loader:
            optimizer.zero_grad()
            loss(network(images), labels).backward()
            nn.utils.clip_grad_norm_(network.parameters(), recipe.clip_norm or float("inf"))
            optimizer.step()

    return epoch


def resident(rounds: int, batches: int) -> Iterator[Row]:
    """An epoch of each, start and end of Lightning's loop included."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (batches * BATCH, 32, 32, 3), dtype=np.uint8)
    labels = generator.integers(0, 10, len(images))
    network, recipe = _network(), _recipe()
    own = DeviceImages(torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(labels))
    loader = ResumableLoader(DeviceBatches(own, 0, train=True), BATCH, seed=0, shuffle=True, drop_last=True)
    module = _module(copy.deepcopy(network).to(memory_format=torch.channels_last), recipe)  # type: ignore[call-overload]
    for workers in WORKERS:
        peer = DataLoader(PlainImages(images, labels), BATCH, shuffle=True, num_workers=workers)
        ways = {"peer": plain_epoch(network, peer, recipe), "ours": lambda: fit(module, loader, batches)}
        seconds = interleaved(ways, rounds)
        work = RESIDENT.format(workers)
        yield from compare(work, seconds, GOALS, lambda value: f"{len(images) / value:.0f} images/s")


def overhead(rounds: int, steps: int) -> Iterator[Row]:
    """Seconds of a step, from the first batch to the last step's end; the same module, batches, optimiser."""
    network, recipe = _network().to(memory_format=torch.channels_last), _recipe()  # type: ignore[call-overload]
    module = _module(network, recipe)
    batches = [(torch.randn(BATCH, 3, 32, 32), torch.randint(10, (BATCH,))) for _ in range(steps)]
    loader: Any = DataLoader(batches, batch_size=None)  # type: ignore[arg-type]
    bare, framed = [], []

    def bare_loop() -> None:
        optimizer = build_optimizer(recipe, network)
        schedule = build_schedule(recipe, optimizer, steps)
        network.train()
        start = time.perf_counter()
        for number, batch in enumerate(batches):
            images, labels = module.on_after_batch_transfer(batch, number)
            logits, auxiliary = network.forward_with_aux(images)
            loss = torch.stack(list(module.loss(logits, auxiliary, labels).values())).sum()
            optimizer.zero_grad()
            loss.backward()
            for group in optimizer.param_groups:
                if group["l2"]:
                    weights = [p for p in group["params"] if p.grad is not None]
                    torch._foreach_add_([p.grad for p in weights], weights, alpha=group["l2"])
            nn.utils.clip_grad_norm_(network.parameters(), recipe.clip_norm or float("inf"))
            optimizer.step()
            schedule.step()
            loss.item()
        bare.append((time.perf_counter() - start) / steps)

    def lightning_loop() -> None:
        clock = Clock()
        fit(module, loader, steps, clock)
        framed.append((clock.end - clock.start) / steps)

    interleaved({"bare": bare_loop, "framed": lightning_loop}, rounds)
    samples = {"peer": bare[1:], "ours": framed[1:]}  # the first round warms up
    yield from compare(OVERHEAD, samples, GOALS, milliseconds)


class Clock(L.Callback):
    """Time from the first batch to the end of the last step."""

    start = end = 0.0

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, i: int) -> None:
        self.start = self.start or time.perf_counter()

    def on_train_batch_end(self, *_: Any) -> None:
        self.end = time.perf_counter()


def fit(module: L.LightningModule, loader: Any, steps: int, *callbacks: L.Callback) -> None:
    """An epoch as `python -m classification` trains it, its last checkpoint included."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(
            TrainerConfig(device="cpu", checkpoint_seconds=None),
            RunFolder(Path(folder)),
            [],
            [*callbacks, L2Gradient(), ProgressCallback("classification", BATCH)],
            max_steps=steps,
            gradient_clip_norm=5.0,
            validate_every_epochs=None,
        )
        trainer.fit(module, loader)


def _network() -> NASNet:
    return NASNet(replace(ZOO["nasnet_a_cifar"], cells_per_stage=1, filters=16, stem_filters=48), 10)


def _recipe() -> RecipeConfig:
    return RecipeConfig(epochs=1, batch_size=BATCH, auxiliary_weight=0.0, drop_path_keep=1.0)


def _module(network: NASNet, recipe: RecipeConfig) -> ClassificationModule:
    return ClassificationModule(
        network,
        classification_loss(recipe.label_smoothing, recipe.auxiliary_weight),
        partial(build_optimizer, recipe),
        lambda optimizer: build_schedule(recipe, optimizer, 1),
    )
