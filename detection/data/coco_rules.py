"""The rules that an annotation file may break: one list for training and for `detection.check_data`.

A problem's level says what it means for a training: `error` stops it, a box that is `left out` is no target
of it, and a `warning` is only told.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from backbones.words import counted
from detection.data.coco_file import CocoFile
from detection.data.elements import UNREAD
from detection.data.listed_files import LEAVES, leaves
from runtime.problems import SHOWN, Problem

LARGEST_SIDE = 2**31 - 1
"""Pixels; sizes are kept in 32 bits."""
LONGEST_NAME = 1024
"""Characters; names are kept in an array, as wide as the longest."""
MARGIN = 1.0
"""Pixels by which a box may reach beyond its image unmentioned; many of COCO's do by less."""

Found = tuple[str, str, Iterable[object]]
"""Level, rule, offenders."""


def find_problems(file: CocoFile, where: str, shown: int = SHOWN) -> list[Problem]:
    """Every value of another type and every broken rule of the ids, names and boxes, with counts.

    Looks at no image. where: the file. shown: offenders that are named of each rule, the first ones."""
    problems = list(file.problems)
    for rules in (_of_images(file), _of_categories(file), _of_annotations(file), _of_boxes(file)):
        for level, rule, offenders in rules:
            if isinstance(offenders, _Rows):
                count, names = len(offenders.rows), [offenders.name(row) for row in offenders.rows[:shown]]
            else:
                found = [str(offender) for offender in offenders]
                count, names = len(found), found[:shown]
            if count:
                problems.append(Problem(rule, count, names, level, where))
    return problems


def category_difference(
    found: Sequence[tuple[int, str]], wanted: Sequence[tuple[int, str]], other: str
) -> str | None:
    """How categories, ids with names in order of the ids, differ from those of `other`; None: not at all."""
    if found == wanted:
        return None
    pairs = zip([*found, None], [*wanted, None], strict=False)
    theirs, ours = next(pair for pair in pairs if pair[0] != pair[1])
    count = counted(len(found), "category", "categories")
    return f"has {count}, {other} {len(wanted)}; the first that differs is {theirs} here, {ours} there"


class _Rows:
    """Offenders as rows, of which only those that are shown get a name."""

    def __init__(self, wrong: NDArray[np.bool_], name: Callable[[int], str]) -> None:
        self.rows, self.name = np.flatnonzero(wrong).tolist(), name

    def __iter__(self) -> Iterator[str]:
        return map(self.name, self.rows)


def _of_images(file: CocoFile) -> Iterator[Found]:
    def size(row: int) -> str:
        return f"image {file.image_ids[row]}: width = {file.sizes[row, 1]}, height = {file.sizes[row, 0]}"

    read = (file.sizes != UNREAD).all(axis=1)
    outside = read & np.any((file.sizes < 1) | (file.sizes > LARGEST_SIDE), axis=1)
    names = [name for name in file.file_names if name is not None]
    counts = Counter(names)
    yield (
        "error",
        "images: empty, expected at least one",
        ["none"] if "images" in file.lists and not file.file_names else [],
    )
    yield "error", "images: id given more than once", (f"id = {i}" for i in _repeated(file.image_ids))
    yield "error", f"images: width or height is not in 1..{LARGEST_SIDE}", _Rows(outside, size)
    yield (
        "error",
        "images: file_name is empty",
        (f"image {i}" for i, n in zip(file.image_ids, file.file_names, strict=True) if n == ""),
    )
    yield "error", LEAVES, (n for n in names if n and leaves(n))
    long = (f"{n[:40]}…" for n in names if len(n) > LONGEST_NAME)
    yield "error", f"images: file_name has more than {LONGEST_NAME} characters", long
    yield "warning", "images: file_name given more than once", (n for n, count in counts.items() if count > 1)


def _of_categories(file: CocoFile) -> Iterator[Found]:
    ids = np.array([category.id for category in file.categories], np.int64)
    names = [category.name for category in file.categories if category.name is not None]
    repeated = [name for name, count in Counter(names).items() if count > 1]
    folded = Counter(name.casefold() for name in dict.fromkeys(names))
    parents = {
        parent: category.name
        for parent, category in zip(file.supercategories, file.categories, strict=True)
        if isinstance(parent, str) and parent != category.name
    }
    empty = ~np.isin(ids, file.category_ids)
    unknown = (file.category_ids != UNREAD) & ~np.isin(file.category_ids, ids)
    yield (
        "error",
        "categories: empty, expected at least one",
        ["none"] if "categories" in file.lists and not file.categories else [],
    )
    yield "error", "categories: id given more than once", (f"id = {i}" for i in _repeated(ids))
    yield (
        "error",
        "categories: name is empty",
        (f"category {c.id}" for c in file.categories if c.name is not None and not c.name.strip()),
    )
    yield "error", "categories: name given more than once", repeated
    yield (
        "error",
        "annotations: category_id is not among the ids of categories",
        _Rows(unknown, lambda row: f"{_annotation(file, row)}: category_id = {file.category_ids[row]}"),
    )
    yield "warning", "categories: names differ in case alone", (n for n in names if folded[n.casefold()] > 1)
    yield (
        "warning",
        "categories: no boxes and the parent (supercategory) of others: take it out of categories, or the "
        "detector learns a class without examples",
        (
            f"category {category.id}: name = {category.name}, parent of {parents[category.name]}"
            for category, bare in zip(file.categories, empty.tolist(), strict=True)
            if bare and len(file.category_ids) and category.name in parents
        ),
    )


def _of_annotations(file: CocoFile) -> Iterator[Found]:
    ids = file.annotation_ids

    def value(key: str, column: NDArray[np.generic]) -> Callable[[int], str]:
        return lambda row: f"{_annotation(file, row)}: {key} = {column[row]}"

    def area(row: int) -> str:
        value = f"{file.areas[row]:g}" if np.isfinite(file.areas[row]) else "no finite number"
        return f"{_annotation(file, row)}: area = {value}"

    odd_area = np.all(file.bboxes[:, 2:] > 0, axis=1) & ((file.areas <= 0) | np.isinf(file.areas))
    maskless = np.zeros(len(ids), bool)
    maskless[file.maskless_crowds] = True
    astray = (file.places < 0) & (file.annotation_image_ids != UNREAD)
    unknown = (file.iscrowd != 0) & (file.iscrowd != 1) & (file.iscrowd != UNREAD)
    yield "error", "annotations: id given more than once", (f"id = {i}" for i in _repeated(ids))
    yield (
        "error",
        "annotations: image_id is not among the ids of images",
        _Rows(astray, value("image_id", file.annotation_image_ids)),
    )
    yield "error", "annotations: iscrowd is neither 0 nor 1", _Rows(unknown, value("iscrowd", file.iscrowd))
    yield (
        "warning",
        "annotations: id is 0, which pycocotools takes for no match (detection.evaluate does not)",
        _Rows(ids == 0, value("image_id", file.annotation_image_ids)),
    )
    yield (
        "warning",
        "annotations: crowd region without a mask",
        _Rows(maskless, lambda row: _annotation(file, row)),
    )
    yield (
        "warning",
        "annotations: area is not positive or not finite although the box's is (pycocotools ignores objects "
        "of negative or infinite area)",
        _Rows(odd_area, area),
    )


def _annotation(file: CocoFile, row: int) -> str:
    known = file.annotation_ids[row] != UNREAD
    return f"annotation {file.annotation_ids[row]}" if known else f"annotations[{row}]"


def _of_boxes(file: CocoFile) -> Iterator[Found]:
    def box(row: int) -> str:
        return f"{_annotation(file, row)}: bbox = {file.bboxes[row].tolist()}"

    finite = np.all(np.isfinite(file.bboxes), axis=1)
    left, top, width, height = file.bboxes.T
    negative = finite & ((width < 0) | (height < 0))
    empty = finite & ~negative & ((width == 0) | (height == 0))
    # Where an image or its size is unknown that is the error, and its size is anybody's.
    sizes = file.sizes[file.places] if len(file.sizes) else np.ones((len(left), 2), np.int64)
    known = finite & ~negative & ~empty & (file.places >= 0) & (sizes != UNREAD).all(axis=1)
    image_height, image_width = sizes.T
    beyond = np.max([-left, -top, left + width - image_width, top + height - image_height], axis=0)
    outside = (left >= image_width) | (top >= image_height) | (left + width <= 0) | (top + height <= 0)
    vanishing = known & ~outside & ~targets(file.bboxes, sizes, np.zeros(len(left), np.bool_))[1]
    share = known & (left >= 0) & (top >= 0) & (left + width <= 1) & (top + height <= 1)
    yield (
        "error",
        "annotations: bbox holds a number that is not finite (NaN, infinite or null)",
        _Rows(file.boxed & ~finite, box),
    )
    yield "left out", "annotations: bbox has a negative width or height", _Rows(negative, box)
    yield "left out", "annotations: bbox has no area", _Rows(empty | vanishing, box)
    yield "left out", "annotations: bbox lies outside its image", _Rows(known & outside, box)
    yield (
        "warning",
        f"annotations: bbox reaches more than {MARGIN:g} px beyond its image and is cut there",
        _Rows(known & ~outside & ~vanishing & (beyond > MARGIN), box),
    )
    yield (
        "warning",
        "annotations: bbox lies within the image's first pixel (0..1): shares of the sides, where pixels are "
        "expected?",
        _Rows(share & (sizes > 1).all(axis=1), box),
    )
    yield (
        "warning",
        "annotations: the same bbox and category_id as of an annotation before it of the same image",
        _Rows(_repeats(file) & known & ~outside & ~vanishing, box),
    )


def _repeats(file: CocoFile) -> NDArray[np.bool_]:
    """Which boxes equal an earlier one of the same image and category."""
    key = np.zeros(len(file.bboxes), np.uint64)
    bits = (file.bboxes + 0.0).view(np.uint64)  # + 0.0 makes -0.0 positive
    columns = (file.annotation_image_ids, file.category_ids, file.iscrowd, *bits.T)
    for column in columns:  # a hash: to sort by seven keys takes a second for COCO's 860,001 boxes
        key = (key ^ column.astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        key ^= key >> np.uint64(29)
    repeated = np.zeros(len(key), np.bool_)
    order = np.argsort(key, kind="stable")
    same = np.flatnonzero(key[order][1:] == key[order][:-1])
    for column in columns:
        same = same[column[order[same]] == column[order[same + 1]]]
    repeated[order[same + 1]] = True
    return repeated


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
    distinct, counts = np.unique(values[values != UNREAD], return_counts=True)
    return distinct[counts > 1].tolist()
