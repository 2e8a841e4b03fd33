"""Writes a COCO annotation file from the labels of another format.

    python -m detection.import_labels --from yolo|voc DIR --output annotations.json [--split train]

yolo: DIR/images, DIR/labels and class names in DIR/data.yaml or DIR/classes.txt. voc: DIR/Annotations or
DIR/annots, and DIR/JPEGImages or DIR/images. Both: labels beside the images in DIR, or in the folders that
--images and --annotations name. --split takes a part: what data.yaml names, folders and lists of images;
`images/SPLIT` or `SPLIT/images` (VOC: `SPLIT/Annotations` with its images), `SPLIT` with labels beside the
images, or the names in `ImageSets/Main/SPLIT.txt`. Without it, parts that are merged are told. Nothing is
written when anything is wrong; every kind of fault is listed with its count, by file and line.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from backbones.arguments import one_line_errors
from backbones.files import expanded
from backbones.words import counted
from celltransfer import program
from detection.data.imported import READERS, import_labels


@one_line_errors
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
    labelled, problems = import_labels(
        options.kind,
        expanded(options.folder),
        expanded(options.output),
        options.split,
        options.images and expanded(options.images),
        options.annotations and expanded(options.annotations),
    )
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
