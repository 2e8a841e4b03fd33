"""An annotation file in COCO's format as it stands: its keys and types, read into columns.

A file of COCO's train2017 has 450 MB, most of it polygons. Elements are first found as slices of the text,
then decoded some thousands at a time into arrays: beside the text hardly more than these lies in memory.

Letters: `N` images, `R` annotated boxes.
"""

import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from backbones.files import existing, unreadable

Id = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Number = float | None
"""null stands for a number that JSON cannot say."""

CHUNK = 8192
"""Elements that are objects of Python at one time."""


class ImageEntry(msgspec.Struct, gc=False):
    """One element of `images`. Sizes in pixels."""

    id: Id
    file_name: str
    width: Int64
    height: Int64


class AnnotationEntry(msgspec.Struct, gc=False):
    """One element of `annotations`. bbox: x, y, width, height in pixels of the image."""

    id: Id
    image_id: Id
    category_id: Id
    bbox: tuple[Number, Number, Number, Number]
    area: Number | msgspec.UnsetType = msgspec.UNSET
    iscrowd: Int64 = 0


class CategoryEntry(msgspec.Struct):
    """One element of `categories`."""

    id: Id
    name: str


class _RunLengths(msgspec.Struct):
    counts: str | list[int]


class _Masked(msgspec.Struct):
    segmentation: list[Any] | _RunLengths | None = None


class _Top(msgspec.Struct):
    images: list[msgspec.Raw]
    categories: list[msgspec.Raw]
    annotations: list[msgspec.Raw] | None = None


@dataclass(frozen=True)
class CocoFile:
    """Columns of an annotation file, in its order; nothing is checked but the types."""

    image_ids: NDArray[np.int64]
    """`[N]`."""
    sizes: NDArray[np.int64]
    """`[N, 2]`, height and width in pixels."""
    file_names: list[str]
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
    areas: NDArray[np.float64]
    """`[R]`, square pixels; NaN where the file gives none, infinite where it gives what is no number."""
    iscrowd: NDArray[np.int64]
    """`[R]`."""
    maskless_crowds: NDArray[np.int64]
    """Rows of the crowd regions without a segmentation."""
    categories: list[CategoryEntry]
    annotated: bool
    """False where the file has no `annotations` at all, as COCO's test-dev: only predictions can be made."""


def parse(path: str | os.PathLike[str]) -> CocoFile:
    """Reads a file's keys and types, nothing more. NaN and Infinity, which Python writes, are read as null.

    Raises FileNotFoundError; ValueError that names the file and the key where it is not JSON, lacks a
    key or has a value of another type."""
    path = existing(path, "annotation")
    data = path.read_bytes()
    try:
        try:
            return _columns(_split(data))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            strict = strict_json(data)
            if strict is None:
                raise ValueError(unreadable(error)) from None
            return _columns(_split(strict))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _split(data: bytes) -> _Top:
    """Finds the elements. Raises msgspec.DecodeError for what is not JSON, ValueError for another form."""
    try:
        return msgspec.json.decode(data, type=_Top)
    except msgspec.ValidationError as error:
        mismatch = str(error)
    # A wrong value is met before a later mistake in the text, which matters more and is raised here.
    msgspec.json.decode(data, type=msgspec.Raw)
    try:
        keys = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    except msgspec.ValidationError as error:
        raise ValueError(f"expected an object with images, annotations and categories: {error}") from None
    for key in ("images", "categories", "annotations"):
        if (value := bytes(keys.get(key, b"null")).strip()) == b"null" and key != "annotations":
            raise ValueError(f"the key {key!r} is missing, expected images, annotations and categories")
        if value != b"null" and not value.startswith(b"["):
            raise ValueError(f"{key} is {type(msgspec.json.decode(value)).__name__}, expected a list")
    raise ValueError(mismatch)


def strict_json(data: bytes) -> bytes | None:
    """The same in JSON proper, where Python can read it: json.dump writes NaN unless told not to."""
    try:
        return msgspec.json.encode(json.loads(data))  # which writes null for what is not finite
    except (ValueError, RecursionError, OverflowError):
        return None


def _columns(top: _Top) -> CocoFile:
    image_ids, sizes = _empty(top.images), np.empty((len(top.images), 2), np.int64)
    file_names: list[str] = []
    for rows, images in _decoded("images", top.images, ImageEntry):
        image_ids[rows] = [image.id for image in images]
        sizes[rows] = [(image.height, image.width) for image in images]
        file_names += [image.file_name for image in images]
    found = top.annotations or []
    ids, of_image, of_category, iscrowd = (_empty(found) for _ in range(4))
    bboxes, areas = np.empty((len(found), 4)), np.empty(len(found))
    for rows, annotations in _decoded("annotations", found, AnnotationEntry):
        ids[rows] = [a.id for a in annotations]
        of_image[rows] = [a.image_id for a in annotations]
        of_category[rows] = [a.category_id for a in annotations]
        iscrowd[rows] = [a.iscrowd for a in annotations]
        bboxes[rows] = np.array([a.bbox for a in annotations], np.float64)  # where None becomes NaN
        areas[rows] = [_area(a.area) for a in annotations]
    crowds = np.flatnonzero(iscrowd == 1)
    maskless = [row for row in crowds.tolist() if not _has_mask(found[row])]
    return CocoFile(
        image_ids=image_ids,
        sizes=sizes,
        file_names=file_names,
        annotation_ids=ids,
        places=places(of_image, image_ids),
        annotation_image_ids=of_image,
        category_ids=of_category,
        bboxes=bboxes,
        areas=areas,
        iscrowd=iscrowd,
        maskless_crowds=np.array(maskless, np.int64),
        categories=[c for _, some in _decoded("categories", top.categories, CategoryEntry) for c in some],
        annotated=top.annotations is not None,
    )


def _area(given: Number | msgspec.UnsetType) -> float:
    if given is msgspec.UNSET:
        return math.nan
    return math.inf if given is None else given


def _empty(elements: Sequence[object]) -> NDArray[np.int64]:
    return np.empty(len(elements), np.int64)


T = TypeVar("T")


def _decoded(key: str, elements: Sequence[msgspec.Raw], form: type[T]) -> Iterator[tuple[slice, list[T]]]:
    """Rows and their elements, some thousands at a time. Raises ValueError for those of another form."""
    decoder = msgspec.json.Decoder(list[form])  # type: ignore[valid-type]
    for start in range(0, len(elements), CHUNK):
        rows = slice(start, min(start + CHUNK, len(elements)))
        try:
            yield rows, decoder.decode(b"[" + b",".join(elements[rows]) + b"]")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise ValueError(_wrong(key, elements, form)) from None


def _wrong(key: str, elements: Sequence[msgspec.Raw], form: type[T]) -> str:
    """The first element of another form, and how many there are."""
    decoder = msgspec.json.Decoder(form)
    faults: list[str] = []
    for index, element in enumerate(elements):
        try:
            decoder.decode(element)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            faults.append(f"{key}[{index}]: {error}" if not faults else f"{key}[{index}]")
    more = f"; {len(faults)} such elements, next {', '.join(faults[1:5])}" if len(faults) > 1 else ""
    return f"{faults[0]}{more}"


def _has_mask(annotation: msgspec.Raw) -> bool:
    try:
        mask = msgspec.json.decode(annotation, type=_Masked).segmentation
    except msgspec.ValidationError:
        return False
    return bool(mask.counts if isinstance(mask, _RunLengths) else mask)


def places(values: NDArray[np.int64], among: NDArray[np.int64]) -> NDArray[np.int64]:
    """Place of each value in `among`, the first one where there are several; -1 where there is none."""
    if not len(among):
        return np.full(len(values), -1)
    order = np.argsort(among, kind="stable")
    found = order[np.searchsorted(among[order], values).clip(max=len(among) - 1)]
    return np.where(among[found] == values, found, -1)
