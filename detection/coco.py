"""COCO-format annotations as compact arrays, without their segmentations.

Legend: `N` images, `R` annotated boxes over all images, `K` categories.
"""

import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detection.coco_file import CocoFile, Problem, find_problems, parse


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
    annotation_ids: NDArray[np.int64]
    """`[R]`."""
    bboxes: NDArray[np.float64]
    """`[R, 4]`, x, y, width, height in pixels."""
    areas: NDArray[np.float64]
    """`[R]`, square pixels; of the segmentation where the file gives it, else of the box."""
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

    def targets(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Boxes `[R, 4]` xyxy cut at the border, and labels `[R]`, of one image, for training.

        Crowd regions and boxes without area are left out."""
        rows = slice(self.first[index], self.first[index + 1])
        height, width = self.sizes[index]
        corners = np.concatenate(
            [self.bboxes[rows, :2], self.bboxes[rows, :2] + self.bboxes[rows, 2:]], axis=1
        )
        corners = corners.clip(0, [width, height, width, height]).astype(np.float32)
        good = ~self.crowd[rows] & (corners[:, 2:] > corners[:, :2]).all(axis=1)
        return corners[good], self.labels[rows][good]

    def subset(self, count: int) -> "CocoAnnotations":
        """The first `count` images with their annotations."""
        if count >= len(self):
            return self
        rows = int(self.first[count])
        fields = vars(self) | {
            name: getattr(self, name)[:rows]
            for name in ("annotation_ids", "bboxes", "areas", "labels", "crowd")
        }
        fields |= {name: getattr(self, name)[:count] for name in ("image_ids", "sizes", "file_names")}
        return CocoAnnotations(**fields | {"first": self.first[: count + 1]})


def read_coco(path: str | os.PathLike[str]) -> tuple[CocoAnnotations, list[Problem]]:
    """Reads an annotation file, and lists what training leaves out.

    Raises FileNotFoundError or ValueError that names the file, the key, how many break the rule and
    which come first."""
    path = Path(path)
    file = parse(path)
    problems = find_problems(file)
    fatal = [problem for problem in problems if problem.fatal]
    if fatal:
        raise ValueError(f"{path}: {fatal[0]}")
    return _compact(path, file), problems


def _compact(path: Path, file: CocoFile) -> CocoAnnotations:
    annotations = file.annotations or []
    categories = sorted(file.categories, key=lambda category: category.id)
    label_of = {category.id: label for label, category in enumerate(categories)}
    place_of = {image.id: index for index, image in enumerate(file.images)}
    places = np.array([place_of[a.image_id] for a in annotations], dtype=np.int64)
    order = np.argsort(places, kind="stable")
    bboxes = np.array([a.bbox for a in annotations], dtype=np.float64).reshape(-1, 4)
    areas = np.array([math.nan if a.area is None else a.area for a in annotations], dtype=np.float64)
    areas = np.where(np.isnan(areas), bboxes[:, 2] * bboxes[:, 3], areas)
    return CocoAnnotations(
        path=path,
        image_ids=np.array([image.id for image in file.images], dtype=np.int64),
        sizes=np.array([(image.height, image.width) for image in file.images], dtype=np.int32).reshape(-1, 2),
        file_names=np.array([image.file_name for image in file.images], dtype=np.str_),
        first=np.searchsorted(places[order], np.arange(len(file.images) + 1)),
        annotation_ids=np.array([a.id for a in annotations], dtype=np.int64)[order],
        bboxes=bboxes[order],
        areas=areas[order],
        labels=np.array([label_of[a.category_id] for a in annotations], dtype=np.int64)[order],
        crowd=np.array([a.iscrowd for a in annotations], dtype=np.bool_)[order],
        category_ids=[category.id for category in categories],
        category_names=[category.name for category in categories],
        annotated=file.annotations is not None,
    )
