"""COCO-format annotations as compact arrays, without their segmentations.

Legend: `N` images, `R` annotated boxes over all images, `K` categories.
"""

import logging
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backbones.ranges import KEY, NoSuchPathError, under
from detection.data.coco_file import CocoFile, parse
from detection.data.coco_rules import find_problems, targets
from detection.data.config import SPLITS, CocoDataConfig
from detection.data.listed_files import note_absent_images
from runtime.problems import Problem, refuse

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CocoAnnotations:
    """Images in the file's order; annotations grouped by image, in the file's order within each.

    A label is the position of a category in the order of ids, 0..K-1; ids may have gaps."""

    path: Path
    image_ids: NDArray[np.int64]
    """`[N]`."""
    sizes: NDArray[np.int32]
    """`[N, 2]`, height and width in pixels."""
    file_names: NDArray[np.str_]
    """`[N]`; an array, which forked workers share, where a list would be copied piece by piece."""
    first: NDArray[np.int64]
    """`[N + 1]`; annotations of image i are `first[i]:first[i + 1]`."""
    bboxes: NDArray[np.float64]
    """`[R, 4]`, x, y, width, height in pixels."""
    areas: NDArray[np.float64]
    """`[R]`, square pixels; of the segmentation where the file gives a finite one, else of the box."""
    labels: NDArray[np.int64]
    """`[R]`, 0..K-1."""
    crowd: NDArray[np.bool_]
    """`[R]`; a crowd region is no target in training, and detections in it are no errors in evaluation."""
    category_ids: list[int]
    category_names: list[str]
    annotated: bool
    """False where the file has no `annotations` at all."""

    def __len__(self) -> int:
        return len(self.file_names)

    @property
    def num_classes(self) -> int:
        return len(self.category_ids)

    def has_targets(self) -> bool:
        """Whether there is anything that training sees."""
        sizes = np.repeat(self.sizes, np.diff(self.first), axis=0)
        return bool(targets(self.bboxes, sizes, self.crowd)[1].any())

    def targets(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Boxes `[R, 4]` xyxy cut at the border, and labels `[R]`, of one image, for training.

        Crowd regions and boxes without area are left out."""
        rows = slice(self.first[index], self.first[index + 1])
        boxes, seen = targets(self.bboxes[rows], self.sizes[index], self.crowd[rows])
        return boxes[seen], self.labels[rows][seen]

    def subset(self, count: int) -> "CocoAnnotations":
        """The first `count` images with their annotations."""
        if count >= len(self):
            return self
        rows = int(self.first[count])
        fields = vars(self) | {
            name: getattr(self, name)[:rows] for name in ("bboxes", "areas", "labels", "crowd")
        }
        fields |= {name: getattr(self, name)[:count] for name in ("image_ids", "sizes", "file_names")}
        return CocoAnnotations(**fields | {"first": self.first[: count + 1]})


def read_coco(
    path: str | os.PathLike[str], images: Path | None = None, limit: int | None = None
) -> tuple[CocoAnnotations, list[Problem]]:
    """Reads an annotation file, and lists what training leaves out or should be told.

    images: folder in which the image files must lie; None: that is not looked at. limit: take only the first
    so many images; None: all.
    Raises FileNotFoundError or ValueError that has a line for each kind of fault: the file, the key, its
    value, what was expected, how many there are and which come first."""
    path = Path(path)
    file = parse(path)
    problems = find_problems(file, str(path))
    if images is not None:
        note_absent_images(problems, file.file_names[:limit], images)
    refuse(problems)
    coco = _compact(path, file)
    return coco if limit is None else coco.subset(limit), problems


def _compact(path: Path, file: CocoFile) -> CocoAnnotations:
    categories = sorted(file.categories, key=lambda category: category.id)
    ids = np.array([category.id for category in categories], np.int64)
    order = np.argsort(file.places, kind="stable")
    bboxes, areas = file.bboxes[order], file.areas[order]
    return CocoAnnotations(
        path=path,
        image_ids=file.image_ids,
        sizes=file.sizes.astype(np.int32),
        file_names=np.array(file.file_names, dtype=np.str_),
        first=np.searchsorted(file.places[order], np.arange(len(file.image_ids) + 1)),
        bboxes=bboxes,
        areas=np.where(np.isfinite(areas), areas, bboxes[:, 2] * bboxes[:, 3]),
        labels=np.searchsorted(ids, file.category_ids[order]),
        crowd=file.iscrowd[order].astype(np.bool_),
        category_ids=ids.tolist(),
        category_names=[category.name for category in categories],
        annotated="annotations" in file.lists,
    )


def read_split(config: CocoDataConfig, split: str, *, images: bool = False) -> tuple[CocoAnnotations, Path]:
    """Annotations of `split`, `train` or `val`, cut to the limit, and the folder of their images.

    images: also check that all image files are there.

    Raises FileNotFoundError or ValueError that names file and key: see `read_coco`."""
    if split not in SPLITS:
        raise ValueError(f"split = {split!r}, must be train or val")
    with under("data"):
        annotations, folder = config.places(split)
        if images and annotations.is_file() and not folder.is_dir():
            name = config.train_images if split == "train" else config.val_images
            raise NoSuchPathError(f"{KEY}{split}_images = {name}: no such folder in {config.prepare()}")
    limit = config.train_limit if split == "train" else config.val_limit
    coco, problems = read_coco(annotations, folder if images else None, limit)
    for problem in problems:
        log.warning("%s", problem)
    return coco, folder
