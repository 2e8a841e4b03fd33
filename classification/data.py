"""Labelled images from files, arrays or packages, as one type: `ImageSet`.

Everything that can be wrong with a data set's layout is found by `open_images`, before any training.
"""

import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from backbones.files import expanded
from backbones.pictures import as_picture
from backbones.ranges import KEY, NoSuchPathError, existing_folder, under
from backbones.words import counted
from celltransfer import not_installed
from classification import archives
from classification.class_folders import (
    NO_CLASSES,
    NO_FILE,
    NO_IMAGE,
    classes,
    own_split,
    split_folder,
    taken_folders,
)
from classification.config import ImageDataConfig
from runtime import zipped
from runtime.held_out import held_out
from runtime.pictures import Result, read
from runtime.problems import Report
from runtime.random import counter_hash

log = logging.getLogger(__name__)

DIGITS_TEST_IMAGES = 360


@dataclass(frozen=True)
class ImageSet:
    """Images with labels; pixels or files are stored as one array, which forked workers share.

    source: where it came from, for messages. labels: `[N]` int64 in 0..K-1.
    images: `[N, H, W, 3]` uint8, or `[N]` file names in the file system's bytes.
    """

    source: str
    classes: list[str]
    labels: NDArray[np.int64]
    images: NDArray[Any]

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Image.Image:
        """RGB. Raises ValueError or FileNotFoundError that names an unreadable file."""
        return self.read(index, as_picture)

    def read(self, index: int, take: Callable[[Image.Image], Result]) -> Result:
        """What `take` makes of the opened, not yet decoded file. Raises as `image` does."""
        image = self.images[index]
        return read(os.fsdecode(image), take) if isinstance(image, bytes) else take(Image.fromarray(image))

    def fingerprint(self) -> dict[str, int | str]:
        """What tells this set from another: of files the classes and labels, else the pixels, too."""
        found = hashlib.sha256("\0".join(self.classes).encode() + self.labels.tobytes())
        if self.images.ndim > 1:
            found.update(np.ascontiguousarray(self.images).data)
        return {"images": len(self), "sha256": found.hexdigest()}

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> "ImageSet":
        return ImageSet(self.source, self.classes, self.labels[indices], self.images[indices])


def open_images(config: ImageDataConfig, split: str) -> ImageSet:
    """The images of `split`, `train` or `test`, cut to the configured limit.

    Raises FileNotFoundError or ValueError that names what is missing, empty or malformed.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split = {split!r}, must be train or test")
    with under("data"):
        images = _READERS[config.name](config, split)
    limit = config.train_limit if split == "train" else config.test_limit
    if limit is None or limit >= len(images):
        return images
    return images.subset(stratified(images.labels, limit, config.limit_seed))


def stratified(labels: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """Ascending indices of `count` samples in the classes' proportions (rounded by largest remainder).

    A pure function of its arguments in every NumPy release, so it can define a split.
    """
    if not 0 <= count <= len(labels):
        raise ValueError(f"count = {count}, must lie in 0..{len(labels)}")
    sizes = np.bincount(labels)
    exact = sizes * count / len(labels)
    shares = np.floor(exact).astype(int)
    shares[np.argsort(shares - exact, kind="stable")[: count - shares.sum()]] += 1
    chosen = []
    for label, share in enumerate(shares):
        members = np.flatnonzero(labels == label)
        chosen.append(members[np.argsort(counter_hash(seed, members), kind="stable")[:share]])
    return np.sort(np.concatenate(chosen))


def _root(config: ImageDataConfig) -> Path:
    if config.download and config.root is not None:  # where it may not lie yet
        return expanded(config.root)
    if config.root is not None and zipped.is_folder(path := expanded(config.root)):
        return path  # a zip archive, or a folder in one, too
    return existing_folder(config.root, "root", f"{KEY}name = {config.name}")


def _digits(config: ImageDataConfig, split: str) -> ImageSet:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise not_installed("data.name = digits", "sklearn", "demo") from None
    digits = load_digits()
    labels = digits.target.astype(np.int64)
    test = stratified(labels, DIGITS_TEST_IMAGES, seed=0)
    indices = test if split == "test" else np.setdiff1d(np.arange(len(labels)), test)
    pixels = _grey_to_rgb(np.rint(digits.images * (255 / 16)).astype(np.uint8))
    return ImageSet("digits", [str(digit) for digit in range(10)], labels[indices], pixels[indices])


def _class_folders(config: ImageDataConfig, split: str) -> ImageSet:
    root = _root(config)
    folders = [split_folder(root, train, config.train_folder, config.test_folder) for train in (True, False)]
    folder = folders[split != "train"]
    if split != "train" and (taken := taken_folders(root, folders)):
        log.info("%s: %s (data.test_folder takes another)", root, taken)
    if not zipped.is_folder(folder):
        raise NoSuchPathError(f"{folder}: no such folder; {KEY}root must hold <split>/<class>/<image>")
    return _read_classes(folder, root)


def _own_folder(config: ImageDataConfig, split: str) -> ImageSet:
    """Class folders with or without a split. Tells which when the images for evaluation are opened."""
    root = _root(config)
    found = own_split(root)
    folder = found.train if split == "train" or found.test is None else found.test
    images = _read_classes(folder, root, tell=split == "train" or folder != found.train)
    if found.test is not None:
        if split == "test":
            count = counted(len(images), "image")
            names = f"trained on {found.train.name}, scored on {found.test.name} ({count})"
            names += f"; {' and '.join(found.unused)} not used" if found.unused else ""
            number = counted(len(images.classes), "class", "classes")
            log.info("%s: class folders: %s; %s", root, names, number)
        return images
    files = [os.path.relpath(os.fsdecode(file), found.train) for file in images.images]
    drawn = held_out(files, config.val_fraction, config.split_seed, images.labels.tolist())
    if split == "test":
        log.info(
            "%s: class folders, no split: %g %% drawn for validation by seed %d (%d of %s); %s",
            *(root, 100 * config.val_fraction, config.split_seed, drawn.sum()),
            counted(len(drawn), "image"),
            counted(len(images.classes), "class", "classes"),
        )
    return images.subset(np.flatnonzero(drawn if split == "test" else ~drawn))


def _read_classes(folder: Path, root: Path, *, tell: bool = True) -> ImageSet:
    """Raises ValueError that names what is missing or odd. root: what names are told below. tell: warn of
    what is left out."""
    report = Report(str(root))
    files: dict[str, list[bytes]] = {}
    for name, paths in classes(folder, root, report.add):
        files[name] = sorted(map(os.fsencode, paths))
        if not files[name]:
            raise ValueError(f"{folder / name}: {NO_IMAGE}{_also(report)}")
    if not files:
        raise ValueError(f"{folder}: {NO_CLASSES}; expected {folder.name}/<class>/<image>{_also(report)}")
    for problem in report.problems:
        if problem.rule == NO_FILE:
            raise ValueError(f"{root}: {problem}")
        if tell:
            log.warning("%s: %s", root, problem)
    labels = np.repeat(np.arange(len(files)), [len(found) for found in files.values()])
    return ImageSet(
        str(folder), list(files), labels, np.array([file for found in files.values() for file in found])
    )


def _also(report: Report) -> str:
    """What was found on the way to a fault, and may explain it."""
    known = [problem for problem in report.problems if problem.rule not in (NO_IMAGE, NO_CLASSES)]
    return "".join(f"; {problem}" for problem in known)


def _cifar10(config: ImageDataConfig, split: str) -> ImageSet:
    root = _root(config)
    if config.download:
        archives.download_cifar10(root)
    if (folder := archives.find_cifar10(root)) is not None:
        pixels, labels = archives.read_cifar10(folder, split)
        return ImageSet(str(folder), list(archives.CIFAR10_CLASSES), labels.astype(np.int64), pixels)
    if not zipped.is_folder(split_folder(root, True, config.train_folder, config.test_folder)):
        raise NoSuchPathError(
            f"{KEY}root = {root}: expected {' or '.join(archives.CIFAR10_ARCHIVES)} (the archive, unpacked), "
            "or class folders train/<class>/<image> and test/<class>/<image>, which may lie in zip archives"
        )
    return _class_folders(config, split)


def _fashion_mnist(config: ImageDataConfig, split: str) -> ImageSet:
    root = _root(config)
    if config.download:
        archives.download_fashion_mnist(root)
    pixels, labels = archives.read_fashion_mnist(root, split)
    classes = list(archives.FASHION_MNIST_CLASSES)
    return ImageSet(str(root), classes, labels.astype(np.int64), _grey_to_rgb(pixels))


def _grey_to_rgb(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(grey[..., None], 3, axis=-1)


_READERS = {
    "digits": _digits,
    "cifar10": _cifar10,
    "fashion_mnist": _fashion_mnist,
    "imagefolder": _class_folders,
    "folder": _own_folder,
}
