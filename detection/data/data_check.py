"""Labelled images held against the rules of training, as annotations in COCO format or as a folder."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from detection.data.coco_file import CocoFile, parse, places
from detection.data.coco_rules import category_difference, find_problems, targets
from detection.data.config import FolderDataConfig
from detection.data.elements import UNREAD
from detection.data.image_check import Fault, check_images
from detection.data.imported import as_coco, read_part
from detection.data.labels import LabelFaults
from detection.data.layouts import COCO, Layout, layout_name, recognise
from detection.data.listed_files import leaves, links_that_leave, note_absent_images
from runtime.problems import Report
from runtime.progress import track


@dataclass
class AnnotationReport(Report):
    """What a data set holds and which rules it breaks. per_category: boxes by the category's name."""

    annotations: str = ""
    per_category: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, object]:
        """Keys `annotations images counts per_category problems`."""
        return {
            "annotations": self.annotations,
            "images": self.folder,
            "counts": self.counts,
            "per_category": self.per_category,
            "problems": [asdict(problem) for problem in self.problems],
        }


@dataclass
class FolderReport:
    """What a folder holds. parts: what each of its parts, by its own name, holds; without a split `whole`."""

    layout: Layout
    parts: dict[str, AnnotationReport]

    def __str__(self) -> str:
        split = ", no split" if "whole" in self.layout.parts else ""
        return f"{self.layout.root}: {layout_name(self.layout)}{split}"

    def to_dict(self) -> dict[str, object]:
        """Keys `folder layout parts`."""
        parts = {name: report.to_dict() for name, report in self.parts.items()}
        return {"folder": str(self.layout.root), "layout": self.layout.kind, "parts": parts}


def check(
    annotations: Path, images: Path, *, decode: bool = False, names: int = 5, workers: int = 0
) -> AnnotationReport:
    """Looks at keys, ids and boxes of the annotations, then at the image files.

    decode: read all pixels of every image. names: shown of each problem. workers: processes that look at
    images; 0: this one."""
    report, file = _read_file(annotations, images, names)
    if file is not None:
        _check_targets(report, file)
        _check_images(report, file, "error", decode, workers)
    return report


def check_folder(
    root: Path, layout: str | None = None, *, decode: bool = False, names: int = 5, workers: int = 0
) -> FolderReport:
    """Looks at a folder of images and labels as training by `data=folder` does, at all parts that it has.

    layout: one of FOLDER_LAYOUTS. None: the one that is found. The others: as of `check`. Raises ConfigError
    for a folder of no known layout, ValueError for a data.yaml that cannot be read."""
    found = recognise(FolderDataConfig(root=str(root), layout=layout).prepare(), layout)
    reports: dict[str, AnnotationReport] = {}
    files: dict[str, CocoFile] = {}
    for role in filter(found.parts.__contains__, ("whole", "train", "val", "test")):
        reports[role], file = _read_part(found, role, names)
        if file is not None:
            files[role] = file
            if role in ("train", "whole"):
                _check_targets(reports[role], file)
            _check_images(reports[role], file, "error" if found.in_place else "left out", decode, workers)
    if (train := files.pop("train", None)) is not None:
        for role, file in files.items():
            if told := category_difference(_categories(file), _categories(train), "train"):
                reports[role].add("categories: not those of train", told, where=reports[role].annotations)
    return FolderReport(found, {found.parts[role].name or role: each for role, each in reports.items()})


def _read_file(annotations: Path, images: Path, names: int) -> tuple[AnnotationReport, CocoFile | None]:
    """What the file says; None where it cannot be read, which the report tells then."""
    report = AnnotationReport(str(images), names=names, annotations=str(annotations))
    try:
        file = parse(annotations, names)
    except (ValueError, FileNotFoundError) as error:
        report.add(str(error).removeprefix(f"{annotations}: "), annotations.name, where=str(annotations))
        return report, None
    report.problems = find_problems(file, str(annotations), names)
    _count(report, file)
    return report, file


def _read_part(layout: Layout, role: str, names: int) -> tuple[AnnotationReport, CocoFile | None]:
    """The same of a part in any layout."""
    part = layout.parts[role]
    if layout.kind == COCO:
        return _read_file(part.labels, part.images, names)
    report = AnnotationReport(str(part.images), names=names, annotations=str(part.labels))
    try:
        labelled = read_part(layout, part, names)
        _, file = as_coco(labelled, layout.kind, layout.root, report.annotations)
    except LabelFaults as error:
        report.problems = error.problems
        return report, None
    except (ValueError, FileNotFoundError) as error:
        report.add(str(error).removeprefix(f"{layout.root}: "), part.labels.name, where=str(layout.root))
        return report, None
    report.problems = [*labelled.problems, *find_problems(file, report.annotations, names)]
    _count(report, file)
    return report, file


def _categories(file: CocoFile) -> list[tuple[int, str]]:
    return [(category.id, category.name) for category in sorted(file.categories, key=lambda each: each.id)]


def _check_targets(report: AnnotationReport, file: CocoFile) -> None:
    known = file.places >= 0
    sizes = file.sizes[file.places[known]]
    if not file.problems and not targets(file.bboxes[known], sizes, file.iscrowd[known] != 0)[1].any():
        rule = "annotations: nothing to train on, none with an area inside its image that is no crowd region"
        report.add(rule, Path(report.annotations).name, where=report.annotations)


def _check_images(
    report: AnnotationReport, file: CocoFile, unreadable: str, decode: bool, workers: int
) -> None:
    """unreadable: level of images that are missing or cannot be decoded; see `Layout.in_place`."""
    images = Path(report.folder)
    if not images.is_dir():
        report.add("no such image folder", images.name, where=report.folder)
        return
    known = len(report.problems)
    absent = note_absent_images(report.problems, file.file_names, images, report.names, unreadable)
    for fault in _image_faults(images, file, absent, unreadable, decode, workers):
        report.add(*fault, where=report.folder)
    lost = sum(problem.count for problem in report.problems[known:] if problem.level == "left out")
    if lost and lost == len(file.file_names):
        report.add("none of the images can be decoded", images.name, where=report.folder)


def _count(report: AnnotationReport, file: CocoFile) -> None:
    boxes = np.bincount(file.places[file.places >= 0], minlength=len(file.image_ids))
    ids = np.array([category.id for category in file.categories], np.int64)
    labels = places(file.category_ids, ids)
    per_category = np.bincount(labels[labels >= 0], minlength=len(ids)).tolist()
    report.per_category = {str(c.name): n for c, n in zip(file.categories, per_category, strict=True)}
    report.counts = {
        "images": len(file.image_ids),
        "images without boxes": int((boxes == 0).sum()),
        "boxes": len(file.annotation_ids),
        "crowd regions": int((file.iscrowd == 1).sum()),
        "categories": len(ids),
        "categories without boxes": per_category.count(0),
    }


def _image_faults(
    folder: Path, file: CocoFile, absent: set[str], unreadable: str, decode: bool, workers: int
) -> Iterator[Fault]:
    """Of the images that are there, in the folder; the rules tell of the others."""
    names, sizes = [], []
    for name, size in zip(file.file_names, file.sizes.tolist(), strict=True):
        if name is not None and name not in absent and not leaves(name) and UNREAD not in size:
            names.append(name)
            sizes.append(size)
    for name in links_that_leave(names, folder):
        yield Fault("image is a symbolic link that leaves the folder, or lies below one", name)
    with track(len(names), "check", images_per_unit=1) as progress:
        for faults in check_images(
            folder, names, sizes, decode=decode, workers=workers, unreadable=unreadable
        ):
            yield from faults
            progress.advance()
