"""Images and boxes for training and evaluation, from any data in COCO format."""

import math
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from backbones.words import counted
from detection.data.annotations import CocoAnnotations, read_split
from detection.data.augment import ColorJitter, draw_words, placed_boxes, placed_image
from detection.data.config import CocoDataConfig
from detection.data.sizing import FLIP, SAMPLING, TrainingSize
from detection.formats import Target, check_target
from runtime.pictures import decode


def open_split(config: CocoDataConfig, split: str, *, seed: int = 0) -> "DetectionImages":
    """The images of `split`; those for training are augmented by `seed`.

    Raises as `read_split` does; also for a missing folder or image, and when nothing can be trained on."""
    coco, folder = read_split(config, split, images=True)
    if split == "val":
        return DetectionImages(coco, folder, config.evaluation_size)
    if not coco.has_targets():
        raise ValueError(
            f"{coco.path}: nothing to train on: {counted(len(coco.labels), 'annotation')} of "
            f"{counted(len(coco), 'image')}, none of them a box with an area inside its "
            "image that is no crowd region"
        )
    colors = config.color_jitter
    return DetectionImages(
        coco,
        folder,
        config.training_size,
        flip=config.flip,
        seed=seed,
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

    flip: mirror half of the images. group_by_aspect: a shuffling `ResumableLoader` gives batches of wide
    images and of others."""

    def __init__(
        self,
        coco: CocoAnnotations,
        folder: Path,
        size: TrainingSize,
        *,
        flip: bool = False,
        seed: int = 0,
        color_jitter: ColorJitter | None = None,
        group_by_aspect: bool = False,
    ):
        self.coco = coco
        self.folder = folder
        self.size = size
        self.flip = flip
        self.seed = seed
        self.color_jitter = color_jitter
        # Detectron2's two: wider than high, or not (`AspectRatioGroupedDataset`).
        self.groups = (coco.sizes[:, 1] > coco.sizes[:, 0]).astype(np.int64) if group_by_aspect else None

    def __len__(self) -> int:
        return len(self.coco)

    def sample_name(self, index: int) -> str:
        """What a message calls an image."""
        return f"image {self.coco.image_ids[index]} ({self.coco.file_names[index]})"

    def smallest(self) -> tuple[int, int]:
        """Height and width, in pixels, of the smallest image that the detector may be given."""
        stored: list[list[int]] = np.unique(self.coco.sizes, axis=0).tolist()
        return min((self.size.least((h, w)) for h, w in stored), key=math.prod)

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
        stored = image.height, image.width
        words = draw_words(self.seed, epoch, index)
        placement = self.size.place(stored, self.flip and bool(words[FLIP] % 2), words)
        boxes, labels = self.coco.targets(index)
        boxes, seen = placed_boxes(boxes, placement, stored)
        picture = placed_image(image, placement)
        if self.color_jitter is not None:
            picture = self.color_jitter.image(picture, words)
        target: Target = {
            "boxes": torch.from_numpy(boxes[seen]),
            "labels": torch.from_numpy(labels[seen]),
            "seed": int(words[SAMPLING] >> np.uint64(1)),
        }
        # Here, in a worker: on a GPU the engine would have to wait for it.
        check_target(target, (picture.height, picture.width), self.coco.num_classes, self.sample_name(index))
        return {"image": to_tensor(picture), "target": target, "index": index}


def collate(samples: list[Sample]) -> list[Sample]:
    """A batch is the list of its samples: their sizes differ."""
    return samples


def to_tensor(image: Image.Image) -> Tensor:
    """`[3, H, W]` uint8."""
    return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())
