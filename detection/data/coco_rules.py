"""The rules that an annotation file may break: one list for training and for `detection.check_data`.

A problem's level says what it means for a training: `error` stops it, a box that is `left out` is no target
of it, and a `warning` is only told.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from detection.data.coco_file import CocoFile
from runtime.problems import Problem

LARGEST_SIDE = 2**31 - 1
"""Pixels; sizes are kept in 32 bits."""
LONGEST_NAME = 1024
"""Characters; names are kept in an array, as wide as the longest."""
SHOWN = 5
MARGIN = 1.0
"""Pixels by which a box may reach beyond its image unmentioned; many of COCO's do by less."""

Found = tuple[str, str, Iterable[object]]
"""Level, rule, offenders."""


def find_problems(file: CocoFile, shown: int = SHOWN) -> list[Problem]:
    """Every broken rule of the ids, names and boxes, with counts; looks at no image.

    shown: offenders that are named of each rule, the first ones."""
    problems = []
    for rules in (_of_images(file), _of_categories(file), _of_annotations(file), _of_boxes(file)):
        for level, rule, offenders in rules:
            if isinstance(offenders, _Rows):
                count, names = len(offenders.rows), [offenders.name(row) for row in offenders.rows[:shown]]
            else:
                found = [str(offender) for offender in offenders]
                count, names = len(found), found[:shown]
            if count:
                problems.append(Problem(rule, count, names, level))
    return problems


class _Rows:
    """Offenders as rows, of which only those that are shown get a name."""

    def __init__(self, wrong: NDArray[np.bool_], name: Callable[[int], str]) -> None:
        self.rows, self.name = np.flatnonzero(wrong).tolist(), name

    def __iter__(self) -> Iterator[str]:
        return map(self.name, self.rows)


def _of_images(file: CocoFile) -> Iterator[Found]:
    def image(row: int) -> str:
        return str(file.image_ids[row])

    outside = np.any((file.sizes < 1) | (file.sizes > LARGEST_SIDE), axis=1)
    names = Counter(file.file_names)
    yield "error", "images: empty, expected at least one", [] if file.file_names else ["none"]
    yield "error", "images: id given more than once", _repeated(file.image_ids)
    yield "error", f"images: width or height is not in 1..{LARGEST_SIDE}, id", _Rows(outside, image)
    yield "error", "images: file_name leaves the folder", (n for n in file.file_names if leaves(n))
    long = (f"{n[:40]}…" for n in file.file_names if len(n) > LONGEST_NAME)
    yield "error", f"images: file_name has more than {LONGEST_NAME} characters", long
    yield "warning", "images: file_name given more than once", (n for n, count in names.items() if count > 1)


def _of_categories(file: CocoFile) -> Iterator[Found]:
    ids = np.array([category.id for category in file.categories], np.int64)
    names = Counter(category.name for category in file.categories)
    yield "error", "categories: empty, expected at least one", [] if file.categories else ["none"]
    yield "error", "categories: id given more than once", _repeated(ids)
    yield "error", "categories: name given more than once", (n for n, count in names.items() if count > 1)
    yield (
        "error",
        "annotations: category_id is not among categories, annotation",
        _Rows(
            ~np.isin(file.category_ids, ids),
            lambda row: f"{file.annotation_ids[row]} with category {file.category_ids[row]}",
        ),
    )


def _of_annotations(file: CocoFile) -> Iterator[Found]:
    ids = file.annotation_ids

    def annotation(row: int) -> str:
        return str(ids[row])

    def area(row: int) -> str:
        return f"{ids[row]} area {file.areas[row]:g}" if np.isfinite(file.areas[row]) else annotation(row)

    boxed = np.all(file.bboxes[:, 2:] > 0, axis=1)
    odd_area = boxed & ((file.areas <= 0) | np.isinf(file.areas))
    maskless = np.zeros(len(ids), bool)
    maskless[file.maskless_crowds] = True
    yield "error", "annotations: id given more than once", _repeated(ids)
    yield (
        "error",
        "annotations: image_id is not among images, annotation",
        _Rows(file.places < 0, lambda row: f"{ids[row]} of image {file.annotation_image_ids[row]}"),
    )
    unknown = (file.iscrowd != 0) & (file.iscrowd != 1)
    yield "error", "annotations: iscrowd is neither 0 nor 1, annotation", _Rows(unknown, annotation)
    yield (
        "warning",
        "annotations: id is 0, which pycocotools takes for no match (detection.evaluate does not)",
        _Rows(ids == 0, lambda row: f"of image {file.annotation_image_ids[row]}"),
    )
    yield "warning", "annotations: crowd region without a mask, annotation", _Rows(maskless, annotation)
    yield (
        "warning",
        "annotations: area is not positive or not finite although the box's is (pycocotools ignores objects "
        "of negative or infinite area), annotation",
        _Rows(odd_area, area),
    )


def _of_boxes(file: CocoFile) -> Iterator[Found]:
    def box(row: int) -> str:
        return f"{file.annotation_ids[row]} bbox {file.bboxes[row].tolist()}"

    finite = np.all(np.isfinite(file.bboxes), axis=1)
    left, top, width, height = file.bboxes.T
    negative = finite & ((width < 0) | (height < 0))
    empty = finite & ~negative & ((width == 0) | (height == 0))
    # Where an image is unknown that is the error, and its size is anybody's.
    known = finite & ~negative & ~empty & (file.places >= 0)
    sizes = file.sizes[file.places] if len(file.sizes) else np.ones((len(left), 2), np.int64)
    image_height, image_width = sizes.T
    beyond = np.max([-left, -top, left + width - image_width, top + height - image_height], axis=0)
    outside = (left >= image_width) | (top >= image_height) | (left + width <= 0) | (top + height <= 0)
    vanishing = known & ~outside & ~targets(file.bboxes, sizes, np.zeros(len(left), np.bool_))[1]
    yield (
        "error",
        "annotations: bbox holds a number that is not finite (NaN, infinite or null), annotation",
        _Rows(~finite, box),
    )
    yield "left out", "annotations: bbox has a negative width or height, annotation", _Rows(negative, box)
    yield "left out", "annotations: bbox has no area, annotation", _Rows(empty | vanishing, box)
    yield "left out", "annotations: bbox lies outside its image, annotation", _Rows(known & outside, box)
    yield (
        "warning",
        f"annotations: bbox reaches more than {MARGIN:g} px beyond its image and is cut there, annotation",
        _Rows(known & ~outside & ~vanishing & (beyond > MARGIN), box),
    )


def targets(
    bboxes: NDArray[np.float64], sizes: NDArray[np.integer], crowd: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Boxes `[R, 4]` xyxy cut at the border of their images, and which of the R training sees.

    It sees no crowd regions, and no box without an area in its image, as 32 bits give it. bboxes: `[R, 4]`,
    x, y, width, height. sizes: `[R, 2]` or `[2]`, height and width of each box's image."""
    corners = np.concatenate([bboxes[:, :2], bboxes[:, :2] + bboxes[:, 2:]], axis=1)
    corners = corners.clip(0, sizes[..., [1, 0, 1, 0]]).astype(np.float32)
    return corners, ~crowd & (corners[:, 2:] > corners[:, :2]).all(axis=1)


def _repeated(values: NDArray[np.int64]) -> list[int]:
    distinct, counts = np.unique(values, return_counts=True)
    return distinct[counts > 1].tolist()


def leaves(file_name: str) -> bool:
    """Whether the name leads out of its folder: `../`, an absolute path, a Windows drive, nothing at all."""
    if file_name and file_name[0] not in "/\\" and ".." not in file_name and ":" not in file_name:
        return False
    path = PurePosixPath(file_name.replace("\\", "/"))
    drive = file_name[1:2] == ":"
    return not file_name or path.is_absolute() or drive or ".." in path.parts
