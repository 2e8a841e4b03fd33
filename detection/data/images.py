"""Images and boxes for training and evaluation, from any data in COCO format."""

from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from detection.data import augment
from detection.data.annotations import CocoAnnotations, read_split
from detection.data.augment import ColorJitter, Placement, ScaleJitter
from detection.data.config import CocoDataConfig
from detection.data.image_check import missing_images
from detection.data.sizing import resized_size
from detection.engines.base import Target
from runtime.image_files import decode


def open_split(config: CocoDataConfig, split: str, *, seed: int = 0) -> "DetectionImages":
    """The images of `split`; those for training are augmented by `seed`.

    Raises as `read_split` does; also for a missing folder or image, and when nothing can be trained on."""
    coco, folder = read_split(config, split)
    if missing := missing_images(coco.file_names, folder):
        raise FileNotFoundError(
            f"{coco.path}: {len(missing)} of {len(coco)} images are not in {folder}, first {missing[0]}"
        )
    if split == "val":
        size = config.input_size
        return DetectionImages(coco, folder, [size.min_size], size.max_size, keep_aspect=size.keep_aspect)
    if not coco.has_targets():
        raise ValueError(
            f"{coco.path}: nothing to train on, none of the {len(coco.labels)} annotations of "
            f"{len(coco)} images is a box with an area inside its image that is no crowd region"
        )
    fixed, scales, colors = config.fixed_size, config.scale_jitter, config.color_jitter
    return DetectionImages(
        coco,
        folder,
        config.min_sizes if fixed is None else [fixed],
        config.max_size if fixed is None else fixed,
        flip=config.flip,
        seed=seed,
        keep_aspect=fixed is None,
        scale_jitter=None if scales is None else ScaleJitter(scales[0], scales[1], config.jitter_size),
        color_jitter=None if colors is None else ColorJitter(*colors),
        group_by_aspect=config.group_by_aspect,
    )


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

    min_sizes: short sides, one of which is drawn. keep_aspect False: both sides, instead. flip: mirror half
    of the images. scale_jitter: instead of the sizes. group_by_aspect: a shuffling `ResumableLoader` gives
    batches of wide images and of others."""

    def __init__(
        self,
        coco: CocoAnnotations,
        folder: Path,
        min_sizes: list[int],
        max_size: int,
        *,
        flip: bool = False,
        seed: int = 0,
        keep_aspect: bool = True,
        scale_jitter: ScaleJitter | None = None,
        color_jitter: ColorJitter | None = None,
        group_by_aspect: bool = False,
    ):
        self.coco = coco
        self.folder = folder
        self.min_sizes = min_sizes
        self.max_size = max_size
        self.flip = flip
        self.seed = seed
        self.keep_aspect = keep_aspect
        self.scale_jitter = scale_jitter
        self.color_jitter = color_jitter
        # Detectron2's two: wider than high, or not (`AspectRatioGroupedDataset`).
        self.groups = (coco.sizes[:, 1] > coco.sizes[:, 0]).astype(np.int64) if group_by_aspect else None

    def __len__(self) -> int:
        return len(self.coco)

    def sample_name(self, index: int) -> str:
        """What a message calls an image."""
        return f"image {self.coco.image_ids[index]} ({self.coco.file_names[index]})"

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
        words = augment.draw_words(self.seed, epoch, index)
        placement = self._place((image.height, image.width), words)
        boxes, labels = self.coco.targets(index)
        boxes, seen = placement.boxes(boxes, (image.height, image.width))
        picture = placement.image(image)
        if self.color_jitter is not None:
            picture = self.color_jitter.image(picture, words)
        return {
            "image": to_tensor(picture),
            "target": {
                "boxes": torch.from_numpy(boxes[seen]),
                "labels": torch.from_numpy(labels[seen]),
                "seed": int(words[augment.SAMPLING] >> np.uint64(1)),
            },
            "index": index,
        }

    def _place(self, stored: tuple[int, int], words: NDArray[np.uint64]) -> Placement:
        flipped = self.flip and bool(words[augment.FLIP] % 2)
        if self.scale_jitter is not None:
            return self.scale_jitter.place(stored, flipped, words)
        min_size = self.min_sizes[int(words[augment.SIZE]) % len(self.min_sizes)]
        if not self.keep_aspect:
            return Placement((min_size, min_size), flipped)
        return Placement(resized_size(*stored, min_size, self.max_size), flipped)


def collate(samples: list[Sample]) -> list[Sample]:
    """A batch is the list of its samples: their sizes differ."""
    return samples


def resize(image: Image.Image, min_size: int, max_size: int, keep_aspect: bool = True) -> Image.Image:
    """Scales an RGB image as an `InputSize` says, by Pillow's antialiased bilinear filter on 8-bit pixels."""
    size = resized_size(image.height, image.width, min_size, max_size)
    return Placement(size if keep_aspect else (min_size, min_size)).image(image)


def to_tensor(image: Image.Image) -> Tensor:
    """`[3, H, W]` uint8."""
    return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())
