"""Writes a COCO annotation file from the labels of another format.

    python -m detection.import_labels --from yolo|voc DIR --output annotations.json [--split train]

yolo: DIR/images, DIR/labels and class names in DIR/data.yaml or DIR/classes.txt. voc: DIR/Annotations, and
DIR/JPEGImages or DIR/images. Both: labels beside the images in DIR, or in the folders that --images and
--annotations name. --split takes a part: `images/SPLIT` or `SPLIT/images` (VOC: `SPLIT/Annotations` with its
images), `SPLIT` with labels beside the images, or the names in `ImageSets/Main/SPLIT.txt`; without it, parts
that are merged are told. Nothing is written when anything is wrong; every kind of fault is listed with its
count, by file and line.
"""

import argparse
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from backbones.files import check_output, expanded, write_atomically
from backbones.words import counted, printable, printable_lines, told
from celltransfer import program
from detection.data.coco_file import columns
from detection.data.coco_rules import find_problems
from detection.data.coco_text import Elements
from detection.data.labels import LabelledImages
from detection.data.voc_labels import read_voc
from detection.data.yolo_labels import read_yolo
from runtime.problems import Problem, refuse

READERS: Mapping[str, Callable[[Path, str | None, Path | None, Path | None], LabelledImages]] = {
    "yolo": read_yolo,
    "voc": read_voc,
}


def import_labels(
    kind: str,
    root: Path,
    output: Path,
    split: str | None = None,
    images: Path | None = None,
    annotations: Path | None = None,
) -> tuple[LabelledImages, list[Problem]]:
    """Reads labels and writes them to `output`; returns them and what the check warns of. kind: of READERS.

    images, annotations: folders of the images and of the labels, where they lie elsewhere.
    Raises FileNotFoundError for a missing folder, ValueError that lists all faults by file and line or names
    an output that cannot be written."""
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder")
    check_output(output)
    labelled = READERS[kind](root, split, images, annotations)
    if not labelled.categories:
        read = counted(len(labelled.images), "image")
        raise ValueError(
            f"{root}: no object in the {kind} labels of {read}, so there is no category to train on"
        )
    data = msgspec.json.encode(labelled.to_coco(f"imported from the {kind} labels of {printable(str(root))}"))
    written = columns(msgspec.json.decode(data, type=Elements), str(output))
    problems = find_problems(written, str(output))
    refuse(problems)
    write_atomically(output, data)
    return labelled, [*labelled.problems, *problems]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog=program("detection.import_labels"),
        description=(__doc__ or "").split("\n\n")[0],
        epilog=(__doc__ or "").split("\n\n")[2],
    )
    parser.add_argument("--from", dest="kind", choices=READERS, required=True, help="format of the labels")
    parser.add_argument("folder", type=Path, metavar="DIR", help="the data set")
    parser.add_argument("--output", type=Path, required=True, help="annotation file to write")
    parser.add_argument("--split", help="take this part of it only, such as train")
    parser.add_argument("--images", type=Path, metavar="DIR", help="folder of the images, if another")
    parser.add_argument("--annotations", type=Path, metavar="DIR", help="the same of the labels")
    options = parser.parse_args(arguments)
    try:
        labelled, problems = import_labels(
            options.kind,
            expanded(options.folder),
            expanded(options.output),
            options.split,
            *(path and expanded(path) for path in (options.images, options.annotations)),
        )
    except (ValueError, OSError) as error:
        print(printable_lines(told(error)), file=sys.stderr)
        return 1
    for problem in problems:
        print("\n".join(problem.lines()), file=sys.stderr)
    objects = [thing for image in labelled.images for thing in image.objects]
    crowds = sum(thing.crowd for thing in objects)
    without = sum(not image.objects for image in labelled.images)
    print(
        f"{options.output}: {counted(len(labelled.images), 'image')} ({without} without objects, "
        f"{labelled.unlabelled} of them without a label file), {counted(len(objects), 'object')} "
        f"({crowds} of them crowd regions), {counted(len(labelled.categories), 'category', 'categories')}"
    )
    paths = shlex.join([str(options.output), str(labelled.folder)])
    print(f"check it: {program('detection.check_data')} {paths} --decode")
    return 0


if __name__ == "__main__":
    sys.exit(main())
