"""Checks a COCO-format data set before anything is trained on it.

    python -m detection.check_data ANNOTATIONS.json IMAGES_DIR [--decode] [--json]

Exit code 0 when nothing is wrong, 1 when anything is: a line that starts with `error` stops or falsifies a
training, one that starts with `left out` counts boxes that a training leaves out. A line that starts with
`warning` changes nothing, the exit code neither. Of every image the header is read, for its size; with
--decode all of it, which finds what is cut off or damaged further on.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from backbones.files import expanded
from backbones.words import printable
from celltransfer import program
from detection.data.coco_file import CocoFile, parse, places
from detection.data.coco_rules import find_problems, targets
from detection.data.elements import UNREAD
from detection.data.image_check import Fault, check_images
from detection.data.listed_files import leaves, links_that_leave, note_absent_images
from runtime.problems import Report, parse_check
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


def check(
    annotations: Path, images: Path, *, decode: bool = False, names: int = 5, workers: int = 0
) -> AnnotationReport:
    """Looks at keys, ids and boxes of the annotations, then at the image files.

    decode: read all pixels of every image. names: shown of each problem. workers: processes that look at
    images; 0: this one."""
    report = AnnotationReport(str(images), names=names, annotations=str(annotations))
    try:
        file = parse(annotations, names)
    except (ValueError, FileNotFoundError) as error:
        report.add(str(error).removeprefix(f"{annotations}: "), annotations.name, where=str(annotations))
        return report
    report.problems = find_problems(file, str(annotations), names)
    known = file.places >= 0
    sizes = file.sizes[file.places[known]]
    if not file.problems and not targets(file.bboxes[known], sizes, file.iscrowd[known] != 0)[1].any():
        rule = "annotations: nothing to train on, none with an area inside its image that is no crowd region"
        report.add(rule, annotations.name, where=str(annotations))
    _count(report, file)
    if not images.is_dir():
        report.add("no such image folder", images.name, where=str(images))
        return report
    absent = note_absent_images(report.problems, file.file_names, images, names)
    for fault in _image_faults(images, file, absent, decode, workers):
        report.add(*fault, where=str(images))
    return report


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
    folder: Path, file: CocoFile, absent: set[str], decode: bool, workers: int
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
        for faults in check_images(folder, names, sizes, decode=decode, workers=workers):
            yield from faults
            progress.advance()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog=program("detection.check_data"),
        description=(__doc__ or "").split("\n")[0],
        epilog="Exit code 0: nothing is wrong, warnings aside; 1: something is.",
    )
    parser.add_argument("annotations", type=Path, help="annotation file in COCO format")
    parser.add_argument("images", type=Path, help="folder of its images")
    parser.add_argument("--decode", action="store_true", help="read all of every image, not its header only")
    options = parse_check(parser, arguments)
    report = check(
        expanded(options.annotations),
        expanded(options.images),
        decode=options.decode,
        names=options.names,
        workers=options.workers,
    )
    if options.json:
        print(json.dumps(report.to_dict(), indent=2))
    else:
        _print(report, options.decode)
    return 1 if any(problem.level != "warning" for problem in report.problems) else 0


def _print(report: AnnotationReport, decode: bool) -> None:
    for name, count in report.counts.items():
        print(f"{name}: {count}")
    if report.per_category:
        print("boxes by category:")
        by_name = {printable(name): count for name, count in report.per_category.items()}
        width = max(map(len, by_name))
        for name, count in sorted(by_name.items(), key=lambda item: -item[1]):
            print(f"  {name:{width}}  {count}")
    print("\n".join(map(str, report.problems)) or "no problems found")
    if not decode:
        print("of the images only the headers were read; --decode finds files that are cut off or damaged")


if __name__ == "__main__":
    sys.exit(main())
