"""Writes a COCO annotation file from the labels of another format.

    python -m detection.import_labels --from yolo|voc DIR --output annotations.json [--split train]

yolo: DIR/images, DIR/labels and class names in DIR/data.yaml or DIR/classes.txt. voc: DIR/Annotations and
DIR/JPEGImages. --split takes a part: `images/SPLIT` or `SPLIT/images`, or the names in
`ImageSets/Main/SPLIT.txt`. Nothing is written when anything is wrong; every fault is told by file and line.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from backbones.files import printable_lines, write_atomically
from celltransfer import program
from detection.data.labels import LabelledImages
from detection.data.voc_labels import read_voc
from detection.data.yolo_labels import read_yolo

READERS: Mapping[str, Callable[[Path, str | None], LabelledImages]] = {"yolo": read_yolo, "voc": read_voc}


def import_labels(kind: str, root: Path, output: Path, split: str | None = None) -> LabelledImages:
    """Reads labels and writes them to `output`. kind: a key of READERS.

    Raises FileNotFoundError for a missing folder, ValueError that lists all faults by file and line."""
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder")
    labelled = READERS[kind](root, split)
    content = labelled.to_coco(f"imported from the {kind} labels of {root}")
    write_atomically(output, msgspec.json.encode(content))
    return labelled


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
    options = parser.parse_args(arguments)
    try:
        labelled = import_labels(options.kind, options.folder.expanduser(), options.output, options.split)
    except (ValueError, OSError) as error:
        print(printable_lines(str(error)), file=sys.stderr)
        return 1
    objects = [thing for image in labelled.images for thing in image.objects]
    crowds = sum(thing.crowd for thing in objects)
    without = sum(not image.objects for image in labelled.images)
    print(
        f"{options.output}: {len(labelled.images)} images ({without} without objects), "
        f"{len(objects)} objects ({crowds} of them crowd regions), {len(labelled.categories)} categories"
    )
    print(f"check it: {program('detection.check_data')} {options.output} {labelled.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
