"""Checks labelled images before anything is trained on them.

    python -m detection.check_data DIR [--decode] [--json]
    python -m detection.check_data ANNOTATIONS.json IMAGES_DIR [--decode] [--json]

DIR is what training takes as `data=folder data.root=DIR`, in the layout of COCO, YOLO or Pascal VOC; all of
its splits are checked. Exit code 0 when nothing is wrong, 1 when anything is: what a line that starts with
`error` or `left out` means for training stands in docs/detection.md; one that starts with `warning` changes
nothing, the exit code neither. Of every image the header is read, for its size; with --decode all of it,
which finds what is cut off or damaged further on.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from backbones.arguments import one_line_errors
from backbones.files import expanded
from backbones.ranges import KEY, ConfigError
from backbones.words import printable
from celltransfer import program
from detection.data.config import FOLDER_LAYOUTS
from detection.data.data_check import AnnotationReport, FolderReport, check, check_folder
from runtime.problems import parse_check


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog=program("detection.check_data"),
        usage="%(prog)s [options] DIR\n       %(prog)s [options] ANNOTATIONS IMAGES",
        description=(__doc__ or "").split("\n")[0],
        epilog="Exit code 0: nothing is wrong, warnings aside; 1: something is.",
    )
    parser.add_argument(
        "data", type=Path, metavar="DIR", help="what training takes as data=folder data.root=DIR"
    )
    parser.add_argument(
        "images", type=Path, nargs="?", help="folder of the images; in place of DIR their annotation file"
    )
    parser.add_argument(
        "--layout", choices=FOLDER_LAYOUTS, help="of DIR, as data.layout; default: the one that is found"
    )
    parser.add_argument("--decode", action="store_true", help="read all of every image, not its header only")
    options = parse_check(parser, arguments)
    if options.images is None and options.data.suffix.lower() == ".json":
        parser.error(f"{options.data}: name the folder of its images, too; or DIR alone, which holds both")
    found = _check(options)
    if options.json:
        print(json.dumps(found.to_dict(), indent=2))
    else:
        _print(found, options.decode)
    return 1 if any(problem.level != "warning" for part in _parts(found) for problem in part.problems) else 0


def _check(options: argparse.Namespace) -> AnnotationReport | FolderReport:
    more = {key: getattr(options, key) for key in ("decode", "names", "workers")}
    data = expanded(options.data)
    if options.images is not None:
        return check(data, expanded(options.images), **more)
    try:
        return check_folder(data, options.layout, **more)
    except ConfigError as error:  # its keys are those of a training
        raise ValueError(error.text.removeprefix(f"{KEY}root = ").replace(KEY, "--")) from None


def _parts(found: AnnotationReport | FolderReport) -> list[AnnotationReport]:
    return list(found.parts.values()) if isinstance(found, FolderReport) else [found]


def _print(found: AnnotationReport | FolderReport, decode: bool) -> None:
    if isinstance(found, FolderReport):
        print(printable(str(found)))
        for name, part in found.parts.items():
            print()
            print(printable(f"{name}: labels {part.annotations}, images {part.folder}"))
            _print_part(part)
    else:
        _print_part(found)
    if not decode:
        print("of the images only the headers were read; --decode finds files that are cut off or damaged")


def _print_part(report: AnnotationReport) -> None:
    for name, count in report.counts.items():
        print(f"{name}: {count}")
    if report.per_category:
        print("boxes by category:")
        by_name = {printable(name): count for name, count in report.per_category.items()}
        width = max(map(len, by_name))
        for name, count in sorted(by_name.items(), key=lambda item: -item[1]):
            print(f"  {name:{width}}  {count}")
    for problem in report.problems:  # those of label files name a file each
        print("\n".join([str(problem)] if problem.where else problem.lines()))
    if not report.problems:
        print("no problems found")


if __name__ == "__main__":
    sys.exit(main())
