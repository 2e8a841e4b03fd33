"""A child as a plain script trains it: a fresh process, a DataLoader of PIL images, NCHW, usual settings."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from backbones.genotype import Genotype
from backbones.network import NASNet
from search.children.config import ChildConfig
from search.children.images import ChildImages


class PlainImages(Dataset[tuple[Tensor, int]]):
    """As torchvision's CIFAR10: arrays that become PIL images when they are asked for."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, size: int, padding: int, flip: bool) -> None:
        self.images, self.labels = images, labels
        side = images.shape[1]
        self.transform = transforms.Compose(
            [
                *([transforms.RandomCrop(side, padding=padding)] if padding else []),
                *([transforms.RandomHorizontalFlip()] if flip else []),
                *([transforms.Resize(size)] if size != side else []),
                transforms.ToTensor(),
                transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])


@dataclass(frozen=True)
class PlainLoop:
    """Trains children one after the other, each in its own process, on the images of a search.

    folder: for the files that the processes read. threads: of each, on CPU. loaders: processes that prepare
    images.
    """

    folder: Path
    images: ChildImages
    child: ChildConfig
    threads: int
    loaders: int = 2

    @property
    def _data(self) -> Path:
        return self.folder / "images.npz"

    def write_images(self) -> None:
        """Once, before `train`: the images without their borders, and the split."""
        images = self.images.images
        inner = slice(images.crop_padding, images.crop_padding + images.stored_size)
        np.savez(
            self._data,
            pixels=images.pixels[:, inner, inner].cpu().numpy(),
            labels=images.labels.cpu().numpy(),
            training=self.images.training,
            validation=self.images.validation,
        )

    def train(self, cell: Genotype, seed: int) -> tuple[float, float]:
        """Accuracy in 0..1 and the CPU seconds of all processes."""
        order = {
            "data": str(self._data),
            "cell": cell.to_dict(),
            "seed": seed,
            "threads": self.threads,
            "loaders": self.loaders,
            "padding": self.images.images.crop_padding,
            "flip": self.images.images.flip,
            "classes": self.images.num_classes,
            **{name: getattr(self.child, name) for name in CHILD_KEYS},
        }
        file = self.folder / "child.json"
        file.write_text(json.dumps(order))
        before = os.times()
        done = subprocess.run(
            [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}\n{RUN}", str(file)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(done.stderr)
        after = os.times()
        seconds = after.children_user + after.children_system - before.children_user - before.children_system
        return float(done.stdout), seconds


RUN = "from benchmarks.plain_child import main; main(sys.argv[1])"
CHILD_KEYS = (
    *("cells_per_stage", "filters", "image_size", "epochs", "batch_size", "lr", "momentum"),
    *("weight_decay", "clip_norm", "device"),
)


def main(file: str) -> None:
    """The process: trains as `PlainLoop` wrote it to `file` and prints the accuracy."""
    print(train(json.loads(Path(file).read_text())))


def train(order: dict[str, Any]) -> float:
    torch.set_num_threads(order["threads"])
    torch.manual_seed(order["seed"])
    child = ChildConfig(**{name: order[name] for name in CHILD_KEYS})
    device = torch.device("cuda" if child.device.startswith("cuda") else "cpu")
    with np.load(order["data"]) as data:
        parts = [
            PlainImages(
                data["pixels"][data[name]],
                data["labels"][data[name]],
                child.image_size,
                order["padding"] * (name == "training"),
                order["flip"] and name == "training",
            )
            for name in ("training", "validation")
        ]
    training = DataLoader(
        parts[0], child.batch_size, shuffle=True, num_workers=order["loaders"], drop_last=True
    )
    validation = DataLoader(parts[1], child.batch_size, num_workers=order["loaders"])
    spec = child.spec(Genotype.from_dict(order["cell"]))
    network = NASNet(spec, order["classes"], head_init="fan_out").to(device)
    optimizer = torch.optim.SGD(
        network.parameters(), lr=child.lr, momentum=child.momentum, weight_decay=child.weight_decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, child.epochs * len(training))
    loss = nn.CrossEntropyLoss()
    for _ in range(child.epochs):
        network.train()
        for images, labels in training:
            optimizer.zero_grad()
            loss(network(images.to(device)), labels.to(device)).backward()
            if child.clip_norm is not None:
                nn.utils.clip_grad_norm_(network.parameters(), child.clip_norm)
            optimizer.step()
            schedule.step()
    network.eval()
    hits = 0
    with torch.inference_mode():
        for images, labels in validation:
            hits += int((network(images.to(device)).argmax(1).cpu() == labels).sum())
    return hits / len(parts[1])
