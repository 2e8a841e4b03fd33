"""Formats of the packed data sets: CIFAR-10's archive and the IDX files of Fashion-MNIST.

Sizes that a file claims are held against what it contains before they are believed.
"""

import gzip
import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backbones.files import existing, read_bytes
from backbones.words import counted
from classification.cifar_batches import read_batch

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FASHION_MNIST_CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)

MOST_BYTES = 1 << 30
"""Of an IDX file; Fashion-MNIST's largest has 47 million."""

Arrays = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def download_cifar10(root: Path) -> None:
    """Fetches and unpacks the Python version, unless either version is there.

    It is unpacked beside its place and renamed, so that a folder with that name is a whole one.
    """
    if find_cifar10(root) is not None:
        return
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import download_and_extract_archive

    root.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".cifar10-", dir=root) as unpacked:
        download_and_extract_archive(
            CIFAR10.url, str(root), unpacked, filename=CIFAR10.filename, md5=CIFAR10.tgz_md5
        )
        (Path(unpacked) / CIFAR10.base_folder).rename(root / CIFAR10.base_folder)


def download_fashion_mnist(root: Path) -> None:
    """Fetches what is not there."""
    from torchvision.datasets import FashionMNIST

    FashionMNIST(str(root), download=True)


def find_cifar10(root: Path) -> Path | None:
    """The folder of either version, `root` itself or in it; None where there is neither."""
    folders = [root if root.name == name else root / name for name in CIFAR10_ARCHIVES]
    return next((folder for folder in folders if folder.is_dir()), None)


def read_cifar10(folder: Path, split: str) -> Arrays:
    """Pixels `[N, 32, 32, 3]` and labels `[N]`. Raises FileNotFoundError or ValueError naming the file."""
    names = [f"data_batch_{i}" for i in range(1, 6)] if split == "train" else ["test_batch"]
    batches = [CIFAR10_ARCHIVES[folder.name](folder, name) for name in names]
    pixels = np.concatenate([pixels for pixels, _ in batches]).reshape(-1, 3, 32, 32)
    return pixels.transpose(0, 2, 3, 1).copy(), np.concatenate([labels for _, labels in batches])


def _cifar10_binary(folder: Path, batch: str) -> Arrays:
    data = np.frombuffer(read_bytes(folder / f"{batch}.bin", "CIFAR-10"), np.uint8)
    if len(data) % 3073 or not len(data):
        raise ValueError(f"{folder / batch}.bin: {len(data)} bytes, expected records of 3073 bytes")
    records = data.reshape(-1, 3073)
    return records[:, 1:], _labels(records[:, 0], CIFAR10_CLASSES, folder / f"{batch}.bin")


def _cifar10_python(folder: Path, batch: str) -> Arrays:
    path = folder / batch
    data = read_bytes(path, "CIFAR-10")
    try:
        content = read_batch(data)
    except ValueError as error:
        raise ValueError(
            f"{path}: expected a batch of CIFAR-10's published Python version, found {error}"
        ) from None
    pixels, labels = content.get(b"data"), content.get(b"labels")
    if not isinstance(pixels, np.ndarray):
        raise ValueError(f"{path}: expected an array of pixels under the key data")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise ValueError(f"{path}: expected a list of whole numbers under the key labels")
    if pixels.shape != (len(labels), 3072) or not labels:
        raise ValueError(f"{path}: data of shape {pixels.shape}, expected ({len(labels)}, 3072)")
    return pixels, _labels(np.array(labels, np.int64), CIFAR10_CLASSES, path)


CIFAR10_ARCHIVES = {"cifar-10-batches-bin": _cifar10_binary, "cifar-10-batches-py": _cifar10_python}


def read_fashion_mnist(root: Path, split: str) -> Arrays:
    """Pixels `[N, 28, 28]` and labels `[N]` from torchvision's folder or from `root` itself.

    Raises FileNotFoundError or ValueError naming the file.
    """
    folder = root / "FashionMNIST" / "raw"
    folder = folder if folder.is_dir() else root
    prefix = "train" if split == "train" else "t10k"
    pixels = _idx(_plain_or_packed(folder / f"{prefix}-images-idx3-ubyte"), 3)
    path = _plain_or_packed(folder / f"{prefix}-labels-idx1-ubyte")
    labels = _labels(_idx(path, 1), FASHION_MNIST_CLASSES, path)
    if len(pixels) != len(labels):
        raise ValueError(
            f"{folder}: {counted(len(pixels), f'{prefix} image')} but {counted(len(labels), 'label')}"
        )
    return pixels, labels


def _plain_or_packed(path: Path) -> Path:
    packed = path.with_name(f"{path.name}.gz")
    return existing(packed if packed.exists() else path, "IDX")


def _idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Unsigned bytes in the IDX format (LeCun), plain or gzipped: magic 0, 0, 8, rank; sizes; data."""
    header = 4 + 4 * dimensions
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            start = file.read(header)
            shape = [int(size) for size in np.frombuffer(start[4 : len(start) // 4 * 4], ">u4")]
            size = math.prod(shape)
            if start[:4] != bytes([0, 0, 8, dimensions]) or len(shape) != dimensions:
                raise ValueError(f"{path}: not an IDX file of unsigned bytes with {dimensions} dimensions")
            if not 0 < size <= MOST_BYTES:  # with a side of 0 the others may be of any size
                raise ValueError(f"{path}: claims {size} bytes, expected 1..{MOST_BYTES}")
            data = file.read(size + 1)  # whether there is more than that
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: cannot be unpacked: {error}") from None
    if len(data) != size:
        more = "more" if len(data) > size else len(data)
        raise ValueError(f"{path}: not an IDX file: holds {more} bytes, expected {size} of the shape {shape}")
    return np.frombuffer(data, np.uint8).reshape(shape)


def _labels(labels: NDArray[Any], classes: Sequence[str], path: Path) -> NDArray[np.uint8]:
    if len(odd := labels[(labels < 0) | (labels >= len(classes))]):
        raise ValueError(f"{path}: label {odd[0]}, expected 0..{len(classes) - 1}")
    return labels.astype(np.uint8)
