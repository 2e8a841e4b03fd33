"""An annotation file in COCO's format as it stands: its keys and types, and the rules that it may break."""

import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, TypeVar

import msgspec

LARGEST_SIDE = 2**31 - 1
"""Pixels; sizes are kept in 32 bits."""
Id = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class ImageEntry(msgspec.Struct):
    """One element of `images`. Sizes in pixels."""

    id: Id
    file_name: str
    width: int
    height: int


class AnnotationEntry(msgspec.Struct):
    """One element of `annotations`. bbox: x, y, width, height in pixels of the image."""

    id: Id
    image_id: Id
    category_id: Id
    bbox: tuple[float, float, float, float]
    area: float | None = None
    iscrowd: int = 0


class CategoryEntry(msgspec.Struct):
    """One element of `categories`."""

    id: Id
    name: str


class CocoFile(msgspec.Struct):
    """An annotation file. Without `annotations` (COCO's test-dev) only predictions can be made."""

    images: list[ImageEntry]
    categories: list[CategoryEntry]
    annotations: list[AnnotationEntry] | None = None


ENTRIES = {"images": ImageEntry, "categories": CategoryEntry, "annotations": AnnotationEntry}


@dataclass(frozen=True)
class Problem:
    """A broken rule. `fatal`: the file cannot be used; else the annotations at fault are left out."""

    rule: str
    """Key and what is wrong with it."""
    count: int
    examples: list[str]
    """The first offenders, at most five."""
    fatal: bool = True

    def __str__(self) -> str:
        more = ", …" if self.count > len(self.examples) else ""
        return f"{self.rule}: {self.count} ({', '.join(self.examples)}{more})"


def parse(path: str | os.PathLike[str]) -> CocoFile:
    """Reads a file's keys and types, nothing more.

    Raises FileNotFoundError; ValueError that names the file and the key where it is not JSON, lacks a
    key or has a value of another type."""
    return decode_json(path, CocoFile, "annotation", _locate)


T = TypeVar("T")


def decode_json(
    path: str | os.PathLike[str], form: type[T], what: str, locate: Callable[[Any], str | None] | None = None
) -> T:
    """Reads a JSON file into `form`. locate: names the place of a wrong value better than msgspec does.

    Raises FileNotFoundError, or ValueError that names the file."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such {what} file")
    data = path.read_bytes()
    try:
        return msgspec.json.decode(data, type=form)
    except msgspec.ValidationError as error:
        mismatch = str(error)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(_unreadable(path, error)) from None
    try:  # a wrong value is met before a later mistake in the text, which matters more
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(_unreadable(path, error)) from None
    raise ValueError(f"{path}: {(locate and locate(value)) or mismatch}")


def _unreadable(path: Path, error: Exception) -> str:
    if "out of range" in str(error):  # such as 1e400: JSON's grammar allows what no float holds
        return f"{path}: a number is too large to be read: {error}"
    return f"{path}: not JSON: {error}"


def _locate(top: Any) -> str | None:
    """The first element that has a wrong form, with its index, which msgspec leaves out."""
    if not isinstance(top, dict):
        return f"expected an object with images, annotations and categories, got {type(top).__name__}"
    for key, entry in ENTRIES.items():
        values = top.get(key)
        if values is None and key != "annotations":
            return f"the key {key!r} is missing, expected images, annotations and categories"
        if values is not None and not isinstance(values, list):
            return f"{key} is {type(values).__name__}, expected a list"
        for index, value in enumerate(values or []):
            try:
                msgspec.convert(value, entry)
            except msgspec.ValidationError as error:
                return f"{key}[{index}]: {error}"
    return None


def find_problems(file: CocoFile) -> list[Problem]:
    """Every broken rule of the ids, names and boxes, with counts; looks at no image."""
    annotations = file.annotations or []
    images = {image.id: image for image in file.images}
    categories = {category.id for category in file.categories}
    fatal: dict[str, Iterable[object]] = {
        "images: empty, expected at least one": [] if images else ["none"],
        "categories: empty, expected at least one": [] if categories else ["none"],
        "images: id given more than once": _repeated(image.id for image in file.images),
        "annotations: id given more than once": _repeated(a.id for a in annotations),
        "categories: id given more than once": _repeated(category.id for category in file.categories),
        "categories: name given more than once": _repeated(category.name for category in file.categories),
        "images: width or height is not in 1..2147483647, id": (
            i.id for i in file.images if not (1 <= i.width <= LARGEST_SIDE and 1 <= i.height <= LARGEST_SIDE)
        ),
        "images: file_name leaves the folder": (i.file_name for i in file.images if _leaves(i.file_name)),
        "annotations: image_id is not among images, annotation": (
            f"{a.id} of image {a.image_id}" for a in annotations if a.image_id not in images
        ),
        "annotations: category_id is not among categories, annotation": (
            f"{a.id} with category {a.category_id}" for a in annotations if a.category_id not in categories
        ),
        "annotations: iscrowd is neither 0 nor 1, annotation": (
            a.id for a in annotations if a.iscrowd not in (0, 1)
        ),
    }
    left_out: dict[str, Iterable[object]] = {
        "annotations: bbox has no area, annotation": (
            f"{a.id} bbox {list(a.bbox)}" for a in annotations if min(a.bbox[2:]) <= 0
        ),
        "annotations: bbox lies outside its image, annotation": (
            f"{a.id} bbox {list(a.bbox)}"
            for a in annotations
            if a.image_id in images and min(a.bbox[2:]) > 0 and _outside(a.bbox, images[a.image_id])
        ),
    }
    problems = []
    for rules, is_fatal in ((fatal, True), (left_out, False)):
        for rule, offenders in rules.items():
            if found := [str(offender) for offender in offenders]:
                problems.append(Problem(rule, len(found), found[:5], is_fatal))
    return problems


def _repeated(values: Iterable[object]) -> list[object]:
    return [value for value, count in Counter(values).items() if count > 1]


def _leaves(file_name: str) -> bool:
    path = PurePosixPath(file_name.replace("\\", "/"))
    return not file_name or path.is_absolute() or ".." in path.parts


def _outside(bbox: tuple[float, float, float, float], image: ImageEntry) -> bool:
    x, y, width, height = bbox
    return x >= image.width or y >= image.height or x + width <= 0 or y + height <= 0


def missing_images(file_names: Iterable[str], folder: Path) -> list[str]:
    """File names that are not in the folder. Raises FileNotFoundError when the folder is missing."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such image folder")
    present = {entry.name for entry in os.scandir(folder)}
    return [
        name for name in file_names if name not in present and not ("/" in name and (folder / name).is_file())
    ]
