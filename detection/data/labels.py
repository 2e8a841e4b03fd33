"""Labelled images on their way from another format into COCO's, and what is wrong with their files."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backbones.files import existing
from detection.data.image_check import upright_size
from runtime.pictures import Entry, entries, image_files, is_image, walk
from runtime.problems import SHOWN, Problem, note

DECIMALS = 4
"""Of coordinates in pixels; YOLO's six decimals of a share are thousandths of a pixel."""


@dataclass(frozen=True)
class LabelledObject:
    """bbox: x, y, width, height in pixels. crowd: left out of training and not counted in evaluation.

    polygon: x, y, x, y, … in pixels, where there is one."""

    category: str
    bbox: tuple[float, float, float, float]
    crowd: bool = False
    polygon: list[float] | None = None


@dataclass(frozen=True)
class LabelledImage:
    """file_name: below the images' folder. width, height: in pixels, upright."""

    file_name: str
    width: int
    height: int
    objects: list[LabelledObject]


@dataclass(frozen=True)
class LabelledImages:
    """What a data set of another format holds. categories: in the order in which they get their ids.

    unlabelled: images without a label file, which have no objects. problems: warnings."""

    folder: Path
    categories: list[str]
    images: list[LabelledImage]
    unlabelled: int = 0
    problems: list[Problem] = field(default_factory=list)

    def to_coco(self, description: str) -> dict[str, Any]:
        """The content of an annotation file; ids of all three kinds count from 1."""
        ids = {name: number for number, name in enumerate(self.categories, start=1)}
        annotations: list[dict[str, Any]] = []
        for image_id, image in enumerate(self.images, start=1):
            for thing in image.objects:
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image_id,
                        "category_id": ids[thing.category],
                        "bbox": list(thing.bbox),
                        "area": _area(thing),
                        "iscrowd": int(thing.crowd),
                        "segmentation": _segmentation(thing),
                    }
                )
        images = [
            {"id": number, "file_name": image.file_name, "width": image.width, "height": image.height}
            for number, image in enumerate(self.images, start=1)
        ]
        categories = [{"id": number, "name": name} for name, number in ids.items()]
        return {
            "info": {"description": description},
            "images": images,
            "annotations": annotations,
            "categories": categories,
        }


class Wrong(ValueError):
    """What is wrong with one label. kind: under which it is counted."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class LabelFaults(ValueError):
    """Labels that cannot be read. problems: of all kinds, warnings, too."""

    def __init__(self, problems: list[Problem]) -> None:
        errors = [problem for problem in problems if problem.level == "error"]
        super().__init__("\n".join(line for problem in errors for line in problem.lines()))
        self.problems = problems


@dataclass
class Faults:
    """Collected by kind, so that one run tells all that is to be mended. shown: files named of each kind."""

    shown: int = SHOWN
    problems: list[Problem] = field(default_factory=list)

    def add(
        self, kind: str, path: Path, message: str, line: int | None = None, *, level: str = "error"
    ) -> None:
        """message: as it stands behind `file:line: `."""
        place = f"{path}{'' if line is None else f':{line}'}"
        note(self.problems, kind, f"{place}: {message}", level, shown=self.shown)

    def refuse(self) -> None:
        """Raises LabelFaults that lists the faults of each kind, where there are any."""
        if any(problem.level == "error" for problem in self.problems):
            raise LabelFaults(self.problems)


def picture_size(path: Path, faults: Faults) -> tuple[int, int] | None:
    """Width and height, upright, in pixels; None where it cannot be read, which is one of the faults then."""
    try:
        return upright_size(existing(path, "image"))
    except (ValueError, OSError) as error:
        faults.add("image cannot be read", path, str(error).removeprefix(f"{path}: "))
        return None


def picture_files(folder: Path, faults: Faults) -> list[Path]:
    """Image files in and under the folder; what has such a name and is no regular file is a fault."""

    def refuse(entry: Entry) -> None:
        picture_size(Path(entry.path), faults)

    found = list(image_files(folder, odd=refuse))
    for path in found:
        try:
            os.fspath(path.relative_to(folder)).encode()
        except UnicodeEncodeError:
            faults.add("file name is not UTF-8", path, "JSON cannot hold this name: rename the file")
    return found


def label_files(folder: Path, suffix: str) -> dict[str, list[Path]]:
    """What has the suffix, in any case, in and under the folder, by its path without it; folders, too."""
    found: dict[str, list[Path]] = {}
    for entry in walk(folder):
        if entry.name.lower().endswith(suffix):
            path = Path(entry.path)
            found.setdefault(path.relative_to(folder).as_posix()[: -len(suffix)], []).append(path)
    return found


def only_one(paths: Sequence[Path], faults: Faults) -> Path | None:
    """The label file among `paths`; None where there are several, or no regular file: a fault then."""
    first, *others = paths
    if others:
        faults.add("several label files of one image", others[0], f"labels of the image of {first}, too")
        return None
    try:
        return existing(first, "label")
    except (ValueError, FileNotFoundError) as error:
        faults.add("label file cannot be read", first, str(error).removeprefix(f"{first}: "))
        return None


def child(folder: Path, name: str) -> Path:
    """The folder of that name, or of that name in other case where there is just one."""
    path = folder / name
    if path.is_dir() or not folder.is_dir():
        return path
    folded = name.casefold()
    alike = [Path(e.path) for e in entries(folder) if e.name.casefold() == folded and e.is_dir()]
    return alike[0] if len(alike) == 1 else path


def choose_folders(
    kind: str,
    root: Path,
    pairs: Sequence[tuple[Path, Path]],
    given: tuple[Path | None, Path | None],
    splits: Sequence[str],
    suffix: str,
) -> tuple[Path, Path]:
    """The first pair of folders, of images and of labels, that is there. given: by the user, instead of each.

    splits: parts that the data set has. Raises FileNotFoundError that says what there is instead."""
    images, labels = given
    pairs = list(dict.fromkeys((images or pair[0], labels or pair[1]) for pair in pairs))
    for pair in pairs:
        if all(folder.is_dir() for folder in pair):
            return pair
    expected = " or ".join(f"{images} and {labels}" for images, labels in pairs)
    text = f"{root}: no {kind} data set, expected the folders {expected}"
    if splits:
        raise FileNotFoundError(f"{text}; it has the splits {', '.join(splits)}: choose one with --split")
    if mixed := mixed_folders(root, suffix):
        there = ", ".join(map(str, mixed))
        raise FileNotFoundError(
            f"{text}; labels lie beside the images in {there}: --images {mixed[0]} --annotations {mixed[0]}"
        )
    raise FileNotFoundError(f"{text}; name others with --images and --annotations")


def mixed_folders(root: Path, suffix: str) -> list[Path]:
    """The root, or the folders in it, that hold labels beside images."""
    folders = [root, *sorted(Path(entry.path) for entry in entries(root) if entry.is_dir())]
    return [folder for folder in folders if lies_beside_images(folder, suffix)]


def lies_beside_images(folder: Path, suffix: str) -> bool:
    """Whether an image in the folder has a label file beside it."""
    names = [entry.name for entry in entries(folder)]
    stems = {os.path.splitext(name)[0] for name in names if is_image(name)}
    return any(name.lower().endswith(suffix) and name[: -len(suffix)] in stems for name in names)


def cut(
    left: float, top: float, right: float, bottom: float, size: tuple[int, int]
) -> tuple[float, float, float, float]:
    """x, y, width, height of the part inside an image of `size` = (width, height) pixels."""
    left, right = (min(max(0.0, side), size[0]) for side in (left, right))
    top, bottom = (min(max(0.0, side), size[1]) for side in (top, bottom))
    x, y = round(left, DECIMALS), round(top, DECIMALS)
    return x, y, round(right - left, DECIMALS), round(bottom - top, DECIMALS)


def _segmentation(thing: LabelledObject) -> list[list[float]]:
    if thing.polygon is not None:
        return [thing.polygon]
    if not thing.crowd:
        return []
    x, y, width, height = thing.bbox
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


def _area(thing: LabelledObject) -> float:
    if thing.polygon is None:
        return round(thing.bbox[2] * thing.bbox[3], DECIMALS)
    xs, ys = thing.polygon[::2], thing.polygon[1::2]
    return round(abs(_shoelace(xs, ys)) / 2, DECIMALS)


def _shoelace(xs: Sequence[float], ys: Sequence[float]) -> float:
    return sum(xs[i - 1] * ys[i] - xs[i] * ys[i - 1] for i in range(len(xs)))
