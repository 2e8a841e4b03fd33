"""Images and boxes for training and evaluation, from any data in COCO format."""

import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from classification.data import decode
from detection.coco import CocoAnnotations, read_coco
from detection.coco_file import missing_images
from detection.engines.base import Target
from runtime.loading import counter_hash

log = logging.getLogger(__name__)

SPLITS = ("train", "val")


@dataclass(kw_only=True)
class CocoDataConfig:
    """Group `data`: `coco`. Any data in COCO format; the layout's defaults are those of COCO 2017."""

    name: str = "coco"
    """Recorded with the results."""
    root: str | None = None
    """Folder that the four paths below start from."""
    train_images: str = "train2017"
    """Folder of the training images."""
    train_annotations: str = "annotations/instances_train2017.json"
    """Their annotation file."""
    val_images: str = "val2017"
    """Folder of the images for evaluation."""
    val_annotations: str = "annotations/instances_val2017.json"
    """Their annotation file."""
    train_limit: int | None = None
    """Use only the first so many training images; None: all."""
    val_limit: int | None = None
    """The same for evaluation."""
    min_sizes: list[int] = field(default_factory=lambda: [640, 672, 704, 736, 768, 800])
    """Short side in pixels of a training image; one of them is drawn for each."""
    max_size: int = 1333
    """Long side in pixels that no image exceeds."""
    test_min_size: int = 800
    """Short side in evaluation."""
    flip: bool = True
    """Mirror half of the training images; wrong for text."""
    workers: int = 2
    """Processes that decode images."""

    def __post_init__(self) -> None:
        if not self.min_sizes:
            raise ValueError("data.min_sizes is empty, give at least one short side in pixels")
        sizes = [("min_sizes", size) for size in self.min_sizes]
        for key, size in [*sizes, ("max_size", self.max_size), ("test_min_size", self.test_min_size)]:
            check_side(f"data.{key}", size)
        for key in ("train_limit", "val_limit"):
            if (value := getattr(self, key)) is not None and value < 1:
                raise ValueError(f"data.{key} = {value}, must be at least 1, or null for all images")
        if self.workers < 0:
            raise ValueError(f"data.workers = {self.workers}, must be at least 0")

    def prepare(self) -> Path:
        """The data's root. Raises ValueError or FileNotFoundError where there is none."""
        if self.root is None:
            raise ValueError(
                f"data.root is not set: the folder of {self.train_images} and {self.train_annotations}"
            )
        root = Path(self.root).expanduser()
        if not root.is_dir():
            raise FileNotFoundError(f"data.root = {root}: no such folder")
        return root

    def read(self, split: str) -> tuple[CocoAnnotations, Path]:
        """Annotations of `split`, `train` or `val`, cut to the limit, and the folder of their images.

        Raises FileNotFoundError or ValueError that names file and key: see `read_coco`."""
        if split not in SPLITS:
            raise ValueError(f"split = {split!r}, must be train or val")
        root = self.prepare()
        train = split == "train"
        annotations = root / (self.train_annotations if train else self.val_annotations)
        coco, problems = read_coco(annotations)
        for problem in problems:
            log.warning("%s: %s; left out of training", annotations, problem)
        limit = self.train_limit if train else self.val_limit
        return coco.subset(limit or len(coco)), root / (self.train_images if train else self.val_images)

    def open(self, split: str, *, seed: int = 0) -> "DetectionImages":
        """The images of `split`; those for training are augmented by `seed`.

        Raises as `read` does; also for a missing folder or image, and when nothing can be trained on."""
        coco, folder = self.read(split)
        if missing := missing_images(coco.file_names, folder):
            raise FileNotFoundError(
                f"{coco.path}: {len(missing)} of {len(coco)} images are not in {folder}, first {missing[0]}"
            )
        if split == "val":
            return DetectionImages(coco, folder, [self.test_min_size], self.max_size)
        if not len(coco.labels):
            raise ValueError(f"{coco.path}: no annotations, nothing to train on")
        return DetectionImages(coco, folder, self.min_sizes, self.max_size, flip=self.flip, seed=seed)


def check_side(key: str, pixels: int) -> None:
    """Raises ValueError unless a detector can look at pictures with a side of so many pixels."""
    if not 32 <= pixels <= 10_000:
        raise ValueError(f"{key} = {pixels}, must be in 32..10000 pixels")


class Sample(TypedDict):
    """One image as the detector sees it."""

    image: Tensor
    """`[3, H, W]` uint8 RGB, resized."""
    target: Target
    """In pixels of `image`; without crowd regions."""
    index: int
    """Place in the data set's order."""


class DetectionImages:
    """Map from (epoch, index) to `Sample`; what is drawn depends on (seed, epoch, index) only.

    min_sizes: short sides, one of which is drawn. flip: mirror half of the images."""

    def __init__(
        self,
        coco: CocoAnnotations,
        folder: Path,
        min_sizes: list[int],
        max_size: int,
        *,
        flip: bool = False,
        seed: int = 0,
    ):
        self.coco = coco
        self.folder = folder
        self.min_sizes = min_sizes
        self.max_size = max_size
        self.flip = flip
        self.seed = seed

    def __len__(self) -> int:
        return len(self.coco)

    def read(self, index: int) -> Image.Image:
        """The image as it is stored. Raises ValueError when its size is not the annotated one."""
        path = self.folder / str(self.coco.file_names[index])
        image = decode(path)
        height, width = self.coco.sizes[index]
        if image.size != (width, height):
            raise ValueError(
                f"{path} has {image.width}x{image.height} pixels, {self.coco.path} says {width}x{height}"
            )
        return image

    def __getitem__(self, sample: tuple[int, int]) -> Sample:
        epoch, index = sample
        image = self.read(index)
        boxes, labels = self.coco.targets(index)
        draws = counter_hash(self.seed, epoch, index, np.arange(3))
        if self.flip and int(draws[0]) % 2:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            boxes = np.stack(
                [image.width - boxes[:, 2], boxes[:, 1], image.width - boxes[:, 0], boxes[:, 3]], 1
            )
        resized = resize(image, self.min_sizes[int(draws[1]) % len(self.min_sizes)], self.max_size)
        scale = np.array([resized.width / image.width, resized.height / image.height], dtype=np.float32)
        return {
            "image": to_tensor(resized),
            "target": {
                "boxes": torch.from_numpy(boxes * np.tile(scale, 2)),
                "labels": torch.from_numpy(labels),
                "seed": int(draws[2] >> np.uint64(1)),
            },
            "index": index,
        }


def collate(samples: list[Sample]) -> list[Sample]:
    """A batch is the list of its samples: their sizes differ."""
    return samples


def resized_size(height: int, width: int, min_size: int, max_size: int) -> tuple[int, int]:
    """(H, W) with the short side `min_size`, or less so that the long side is at most `max_size`.

    Source: Detectron2 `ResizeShortestEdge.get_output_shape`, its rounding included."""
    scale = min_size / min(height, width)
    size = (float(min_size), scale * width) if height < width else (scale * height, float(min_size))
    if max(size) > max_size:
        shrink = max_size / max(size)
        size = (size[0] * shrink, size[1] * shrink)
    return int(size[0] + 0.5), int(size[1] + 0.5)


def resize(image: Image.Image, min_size: int, max_size: int) -> Image.Image:
    """Scales an RGB image, aspect kept, with Pillow's antialiased bilinear filter on 8-bit pixels."""
    height, width = resized_size(image.height, image.width, min_size, max_size)
    return image.resize((width, height), Image.Resampling.BILINEAR)


def to_tensor(image: Image.Image) -> Tensor:
    """`[3, H, W]` uint8."""
    return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())


def cache_folder() -> Path:
    """Where data that can be made again is kept: `$XDG_CACHE_HOME/celltransfer`, else below `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "celltransfer"
