"""An annotation file in COCO's format as it stands: its keys and types, read into columns.

A file of COCO's train2017 has 450 MB, most of it polygons. Elements are first found as slices of the text,
then decoded some thousands at a time into arrays: beside the text hardly more than these lies in memory.

Letters: `N` images, `R` annotated boxes.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from detection.data.coco_text import LISTS, Elements, split_file
from detection.data.elements import (
    LARGEST,
    UNREAD,
    Form,
    Key,
    box,
    flag,
    label,
    number,
    positive,
    read_elements,
    text,
    whole,
)
from runtime.problems import SHOWN, Problem

Id = Annotated[int, msgspec.Meta(ge=0, le=LARGEST)]
Int64 = Annotated[int, msgspec.Meta(ge=-LARGEST, le=LARGEST)]
Number = float | None
"""null stands for a number that JSON cannot say."""


class ImageEntry(msgspec.Struct, gc=False):
    """One element of `images`. Sizes in pixels."""

    id: Id
    file_name: str
    width: Int64
    height: Int64


class AnnotationEntry(msgspec.Struct, gc=False):
    """One element of `annotations`. bbox: x, y, width, height in pixels of the image."""

    id: Id
    image_id: Int64
    category_id: Int64
    bbox: tuple[Number, Number, Number, Number]
    area: Number | msgspec.UnsetType = msgspec.UNSET
    iscrowd: Int64 = 0


class CategoryEntry(msgspec.Struct):
    """One element of `categories`."""

    id: Id
    name: str


class _Category(CategoryEntry):
    supercategory: Any = None


_ID = Key(positive, f"a whole number in 0..{LARGEST}", UNREAD)
_REFERENCE = Key(whole, "a whole number", UNREAD)
_PIXELS = Key(whole, "a whole number of pixels", UNREAD)
IMAGE = Form(
    ImageEntry,
    {
        "id": _ID,
        "file_name": Key(text, "text: a path below the image folder", None),
        "width": _PIXELS,
        "height": _PIXELS,
    },
)
ANNOTATION = Form(
    AnnotationEntry,
    {
        "id": _ID,
        "image_id": _REFERENCE,
        "category_id": _REFERENCE,
        "bbox": Key(box, "four numbers: x, y, width, height in pixels", None),
        "area": Key(number, "a number of square pixels", math.nan, math.nan),
        "iscrowd": Key(flag, "0 or 1", UNREAD, 0),
    },
)
CATEGORY = Form(
    _Category,
    {"id": _ID, "name": Key(label, "text", None), "supercategory": Key(lambda value: value, "", None, None)},
)


class _RunLengths(msgspec.Struct):
    counts: str | list[int]


class _Masked(msgspec.Struct):
    segmentation: list[Any] | _RunLengths | None = None


@dataclass(frozen=True)
class CocoFile:
    """Columns of an annotation file, in its order; nothing is checked but the types.

    A value of another type is one of the problems, and UNREAD or None stands for it."""

    image_ids: NDArray[np.int64]
    """`[N]`."""
    sizes: NDArray[np.int64]
    """`[N, 2]`, height and width in pixels."""
    file_names: list[str | None]
    """N."""
    annotation_ids: NDArray[np.int64]
    """`[R]`."""
    places: NDArray[np.int64]
    """`[R]`, place of the annotation's image among the N; -1 where its id is not among theirs."""
    annotation_image_ids: NDArray[np.int64]
    """`[R]`."""
    category_ids: NDArray[np.int64]
    """`[R]`."""
    bboxes: NDArray[np.float64]
    """`[R, 4]`, x, y, width, height in pixels; NaN for a number that is none."""
    boxed: NDArray[np.bool_]
    """`[R]`; whether there is a box that can be read."""
    areas: NDArray[np.float64]
    """`[R]`, square pixels; NaN where the file gives none, infinite where it gives what is no number."""
    iscrowd: NDArray[np.int64]
    """`[R]`."""
    maskless_crowds: NDArray[np.int64]
    """Rows of the crowd regions without a segmentation."""
    categories: list[CategoryEntry]
    supercategories: list[object]
    """One for each category; None where the file has none."""
    problems: list[Problem]
    lists: frozenset[str]
    """Those of LISTS that the file has; without `annotations`, as COCO's test-dev, it can be predicted on."""


def parse(path: str | os.PathLike[str], shown: int = SHOWN) -> CocoFile:
    """Reads a file's keys and types, nothing more. shown: offenders that each problem names.

    Raises as `split_file` does."""
    return columns(split_file(path), str(path), shown)


def columns(elements: Elements, where: str, shown: int = SHOWN) -> CocoFile:
    """The elements as arrays. where: the file, for the problems."""
    problems = [
        Problem(
            f"the key {key!r} is missing, expected images, annotations and categories", 1, [key], where=where
        )
        for key in ("images", "categories")
        if getattr(elements, key) is None
    ]
    decoded = partial(read_elements, problems=problems, where=where, shown=shown)
    images = elements.images or []
    image_ids, sizes = _empty(images), np.empty((len(images), 2), np.int64)
    file_names: list[str | None] = []
    for rows, entries in decoded("images", images, IMAGE):
        image_ids[rows] = [image.id for image in entries]
        sizes[rows] = [(image.height, image.width) for image in entries]
        file_names += [image.file_name for image in entries]
    found = elements.annotations or []
    ids, of_image, of_category, iscrowd = (_empty(found) for _ in range(4))
    bboxes, areas, boxed = np.empty((len(found), 4)), np.empty(len(found)), np.ones(len(found), np.bool_)
    for rows, entries in decoded("annotations", found, ANNOTATION):
        ids[rows] = [a.id for a in entries]
        of_image[rows] = [a.image_id for a in entries]
        of_category[rows] = [a.category_id for a in entries]
        iscrowd[rows] = [a.iscrowd for a in entries]
        boxed[rows] = [a.bbox is not None for a in entries]
        bboxes[rows] = np.array([a.bbox or _NO_BOX for a in entries], np.float64)  # where None becomes NaN
        areas[rows] = [_area(a.area) for a in entries]
    if elements.images is None:
        of_image[:] = UNREAD  # there is none to be among
    if elements.categories is None:
        of_category[:] = UNREAD
    crowds = np.flatnonzero(iscrowd == 1)
    maskless = [row for row in crowds.tolist() if not _has_mask(found[row])]
    categories = [c for _, some in decoded("categories", elements.categories or [], CATEGORY) for c in some]
    return CocoFile(
        image_ids=image_ids,
        sizes=sizes,
        file_names=file_names,
        annotation_ids=ids,
        places=np.where(of_image == UNREAD, -1, places(of_image, image_ids)),
        annotation_image_ids=of_image,
        category_ids=of_category,
        bboxes=bboxes,
        boxed=boxed,
        areas=areas,
        iscrowd=iscrowd,
        maskless_crowds=np.array(maskless, np.int64),
        categories=[CategoryEntry(category.id, category.name) for category in categories],
        supercategories=[category.supercategory for category in categories],
        problems=problems,
        lists=frozenset(key for key in LISTS if getattr(elements, key) is not None),
    )


_NO_BOX = (math.nan,) * 4


def _area(given: Number | msgspec.UnsetType) -> float:
    if given is msgspec.UNSET:
        return math.nan
    return math.inf if given is None else given


def _empty(elements: Sequence[object]) -> NDArray[np.int64]:
    return np.empty(len(elements), np.int64)


def _has_mask(annotation: msgspec.Raw) -> bool:
    try:
        mask = msgspec.json.decode(annotation, type=_Masked).segmentation
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return bool(mask.counts if isinstance(mask, _RunLengths) else mask)


def places(values: NDArray[np.int64], among: NDArray[np.int64]) -> NDArray[np.int64]:
    """Place of each value in `among`, the first one where there are several; -1 where there is none."""
    if not len(among):
        return np.full(len(values), -1)
    order = np.argsort(among, kind="stable")
    found = order[np.searchsorted(among[order], values).clip(max=len(among) - 1)]
    return np.where(among[found] == values, found, -1)
