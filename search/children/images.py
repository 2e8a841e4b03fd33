"""The images that children train on and are scored on.

The split: the images of the *train* files only, divided by the search seed; test files are never opened.
The whole set lies on the device as bytes (see `classification.device_images`); a batch is one gather.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from backbones.ranges import KEY, ConfigError, under
from classification.config import ImageDataConfig
from classification.data import ImageSet, open_images, stratified
from classification.device_images import DeviceImages
from runtime.device import resolve_device
from runtime.random import derive
from search.children.config import ChildConfig

FACTS = "facts.json"


@dataclass(frozen=True)
class ChildImages:
    """Images of the training files on the device, and the indices `[N]` of those that train and that score.

    record: what the ledger keeps of images and split; a search continues only on the same ones.
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
        with under("child"):
            device = resolve_device(child.device)
        resident = DeviceImages.from_config(images, data, child.image_size, device, used)
        digest = hashlib.sha256(b"".join(part.tobytes() for part in (images.labels, training, validation)))
        record: dict[str, int | str] = {
            "training": len(training),
            "validation": len(validation),
            "sha256": digest.hexdigest(),
            "pixels": hashlib.sha256(resident.pixels.cpu().numpy().data).hexdigest(),
        }
        # From here on an index counts the images on the device.
        places = np.searchsorted(used, training), np.searchsorted(used, validation)
        return cls(resident, len(images.classes), *places, record)

    def save(self, folder: Path) -> None:
        """Writes all of it as files that `load` maps into memory; `folder` must exist."""
        for name, array in self.arrays().items():
            np.save(folder / f"{name}.npy", array)
        facts = {"num_classes": self.num_classes, "record": self.record}
        (folder / FACTS).write_text(json.dumps(facts))

    @classmethod
    def load(cls, folder: Path, data: ImageDataConfig, child: ChildConfig) -> "ChildImages":
        """What `save` wrote of images that were opened with the same configuration.

        On the CPU all processes of a machine share the pixels; nothing is read before it is needed."""
        facts = json.loads((folder / FACTS).read_text())
        # Copy-on-write, and nothing writes: PyTorch warns of arrays that cannot be written.
        pixels = torch.from_numpy(np.load(folder / "pixels.npy", mmap_mode="c"))
        labels = torch.from_numpy(np.load(folder / "labels.npy"))
        device = resolve_device(child.device)
        images = DeviceImages.from_padded(
            pixels.to(device),
            labels.to(device),
            size=child.image_size,
            mean=data.mean,
            std=data.std,
            crop_padding=data.crop_padding,
            flip=data.flip,
        )
        training, validation = (np.load(folder / f"{name}.npy") for name in ("training", "validation"))
        return cls(images, facts["num_classes"], training, validation, facts["record"])

    def arrays(self) -> dict[str, np.ndarray]:
        """The padded pixels, the labels and both index arrays, by name."""
        return {
            "pixels": self.images.pixels.cpu().numpy(),
            "labels": self.images.labels.cpu().numpy(),
            "training": self.training,
            "validation": self.validation,
        }


def split(images: ImageSet, child: ChildConfig, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Ascending indices of the images that train and of those that score; a function of labels and seed."""
    held_out = max(1, round(len(images) / 10)) if child.validation is None else child.validation
    used = len(images) - held_out if child.training is None else child.training
    if not child.batch_size <= used <= len(images) - held_out:
        raise ConfigError(
            f"{images.source}: {len(images)} training images, of which {held_out} are held out and {used} "
            f"are to train a child; they must exist and fill a batch of {KEY}child.batch_size = "
            f"{child.batch_size}"
        )
    validation = stratified(images.labels, held_out, derive(seed, "validation split"))
    others = np.setdiff1d(np.arange(len(images)), validation)
    chosen = stratified(images.labels[others], used, derive(seed, "training split"))
    return others[chosen], validation
