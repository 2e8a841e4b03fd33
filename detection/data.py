"""Images and boxes for training and evaluation, from any data in COCO format."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from classification.data import decode
from detection import augment
from detection.augment import ColorJitter, Placement, ScaleJitter
from detection.coco import CocoAnnotations, read_coco
from detection.engines.base import Target
from detection.image_check import missing_images

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
    fixed_size: int | None = None
    """Both sides in pixels of every image, its shape not kept, in training and evaluation, instead of the
    three sizes above; the paper's detector sees 600, 800 or 1200. None: the shape is kept."""
    flip: bool = True
    """Mirror half of the training images; wrong for text."""
    scale_jitter: list[float] | None = None
    """Large-scale jitter of training images instead of `min_sizes`: least and largest scale, such as
    [0.1, 2.0], of which one is drawn for each (Ghiasi et al. 2021)."""
    jitter_size: int = 1024
    """Side in pixels of the square in which a jittered image is fitted at scale 1, and cut or padded."""
    color_jitter: list[float] | None = None
    """Strengths of brightness, contrast, saturation (0..1) and hue (0..0.5), such as [0.4, 0.4, 0.4, 0.1]."""
    group_by_aspect: bool = False
    """Batches of wide images and of tall ones, which need less padding."""
    workers: int = 2
    """Processes that decode images."""

    def __post_init__(self) -> None:
        if not self.min_sizes:
            raise ValueError("data.min_sizes is empty, give at least one short side in pixels")
        sizes = [("min_sizes", size) for size in self.min_sizes]
        for key, size in [*sizes, ("max_size", self.max_size), ("test_min_size", self.test_min_size)]:
            check_side(f"data.{key}", size)
        if self.fixed_size is not None:
            check_side("data.fixed_size", self.fixed_size)
            if self.scale_jitter is not None:
                raise ValueError("data.fixed_size and data.scale_jitter are both set, give one of them")
        self._check_jitter()
        for key in ("train_limit", "val_limit"):
            if (value := getattr(self, key)) is not None and value < 1:
                raise ValueError(f"data.{key} = {value}, must be at least 1, or null for all images")
        if self.workers < 0:
            raise ValueError(f"data.workers = {self.workers}, must be at least 0")

    def _check_jitter(self) -> None:
        check_side("data.jitter_size", self.jitter_size)
        scales, colors = self.scale_jitter, self.color_jitter
        if scales is not None and not (len(scales) == 2 and 0 < scales[0] <= scales[1] <= 10):
            raise ValueError(f"data.scale_jitter = {scales}, must be two rising scales in 0..10, or null")
        if colors is not None and not (
            len(colors) == 4 and all(0 <= c <= 1 for c in colors) and colors[3] <= 0.5
        ):
            raise ValueError(
                f"data.color_jitter = {colors}, must be brightness, contrast, saturation in 0..1 and hue in "
                "0..0.5, or null"
            )

    @property
    def input_size(self) -> "InputSize":
        """At what size evaluation looks at images."""
        if self.fixed_size is not None:
            return InputSize(self.fixed_size, self.fixed_size, keep_aspect=False)
        return InputSize(self.test_min_size, self.max_size)

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
            log.warning("%s: %s", annotations, problem)
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
            size = self.input_size
            return DetectionImages(coco, folder, [size.min_size], size.max_size, keep_aspect=size.keep_aspect)
        if not coco.has_targets():
            raise ValueError(
                f"{coco.path}: nothing to train on, none of the {len(coco.labels)} annotations of "
                f"{len(coco)} images is a box with an area inside its image that is no crowd region"
            )
        fixed, scales, colors = self.fixed_size, self.scale_jitter, self.color_jitter
        return DetectionImages(
            coco,
            folder,
            self.min_sizes if fixed is None else [fixed],
            self.max_size if fixed is None else fixed,
            flip=self.flip,
            seed=seed,
            keep_aspect=fixed is None,
            scale_jitter=None if scales is None else ScaleJitter(scales[0], scales[1], self.jitter_size),
            color_jitter=None if colors is None else ColorJitter(*colors),
            group_by_aspect=self.group_by_aspect,
        )


def check_side(key: str, pixels: int) -> None:
    """Raises ValueError unless a detector can look at pictures with a side of so many pixels."""
    if not 32 <= pixels <= 10_000:
        raise ValueError(f"{key} = {pixels}, must be in 32..10000 pixels")


@dataclass(frozen=True)
class InputSize:
    """How large a picture is looked at: short side `min_size`, long side at most `max_size` pixels.

    keep_aspect False: both sides `min_size` pixels, whatever the picture's shape."""

    min_size: int
    max_size: int
    keep_aspect: bool = True

    def __post_init__(self) -> None:
        for key in ("min_size", "max_size"):
            check_side(f"input.{key}", getattr(self, key))


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


def resized_size(height: int, width: int, min_size: int, max_size: int) -> tuple[int, int]:
    """(H, W) with the short side `min_size`, or less so that the long side is at most `max_size`; at least 1.

    Source: Detectron2 `ResizeShortestEdge.get_output_shape`, its rounding included."""
    scale = min_size / min(height, width)
    size = (float(min_size), scale * width) if height < width else (scale * height, float(min_size))
    if max(size) > max_size:
        shrink = max_size / max(size)
        size = (size[0] * shrink, size[1] * shrink)
    return max(1, int(size[0] + 0.5)), max(1, int(size[1] + 0.5))


def resize(image: Image.Image, min_size: int, max_size: int, keep_aspect: bool = True) -> Image.Image:
    """Scales an RGB image as an `InputSize` says, by Pillow's antialiased bilinear filter on 8-bit pixels."""
    size = resized_size(image.height, image.width, min_size, max_size)
    return Placement(size if keep_aspect else (min_size, min_size)).image(image)


def to_tensor(image: Image.Image) -> Tensor:
    """`[3, H, W]` uint8."""
    return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())
