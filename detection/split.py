"""Divides COCO-format annotations into images to train on and a mini-val set to evaluate on.

    python -m detection.split annotations.json --minival 200 --output DIR
    python -m detection.split annotations/instances_train2014.json annotations/instances_val2014.json
        --minival 8000 --output DIR

DIR then holds `train.json` and `minival.json`; image files stay where they are. The first form draws 200
images of one's own data at random. The second is the paper's split: COCO's train and val images together,
less the mini-val set. The paper names 8,000 images and no list. TensorFlow's detection model zoo, where its
NASNet detector is published, evaluates on 8,059 images of val2014, listed in
`object_detection/data/mscoco_minival_ids.txt` of tensorflow/models: `--minival-ids FILE` takes such a list.
Of COCO 2014, a number draws from the images of val2014, which their names tell; files of COCO 2017 hold the
same images but do not say which are val2014's, so there, as with other data, it draws from all, and says so.
Several files get their folder into `file_name` (`instances_val2014.json`: `val2014/…`), so that
`data.train_images=.` finds the images of all.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from backbones.arguments import whole
from backbones.files import check_output, read_text, real_path, write_atomically
from backbones.words import counted, printable_lines, told
from celltransfer import program
from detection.data.coco_file import CocoFile, columns
from detection.data.coco_rules import find_problems
from detection.data.coco_text import Elements, split_file
from runtime.problems import refuse
from runtime.random import counter_hash

PREFIX = "instances_"
SOURCE = "val2014"


@dataclass(frozen=True)
class Merged:
    """Several annotation files as one. annotations: their text as it stands, masks included."""

    images: list[dict[str, Any]]
    image_ids: NDArray[np.int64]
    annotations: list[msgspec.Raw]
    annotation_image_ids: NDArray[np.int64]
    categories: list[dict[str, Any]]
    licenses: list[Any]
    sources: list[str]


def merge(paths: Sequence[Path]) -> Merged:
    """Raises FileNotFoundError; ValueError for a file that breaks rules, other categories than the first
    file's or an id that two files have."""
    files = [_read(path) for path in paths]
    known: dict[str, dict[int, Path]] = {"image": {}, "annotation": {}}
    images: list[dict[str, Any]] = []
    for path, file in zip(paths, files, strict=True):
        if file.category_keys != files[0].category_keys:
            raise ValueError(f"{path} has other categories than {paths[0]}")
        folder = path.stem.removeprefix(PREFIX)
        for image in file.images:
            if len(paths) > 1 and path.stem.startswith(PREFIX):
                image = {**image, "file_name": f"{folder}/{image['file_name']}"}
            images.append(image)
        _claim(known["image"], path, "image", file.columns.image_ids.tolist())
        _claim(known["annotation"], path, "annotation", file.columns.annotation_ids.tolist())
    return Merged(
        images,
        np.concatenate([file.columns.image_ids for file in files]),
        [annotation for file in files for annotation in file.elements.annotations or []],
        np.concatenate([file.columns.annotation_image_ids for file in files]),
        [msgspec.json.decode(category) for category in files[0].elements.categories or []],
        msgspec.json.decode(files[0].elements.licenses) or [],
        [path.name for path in paths],
    )


class _File(NamedTuple):
    """An annotation file, its text and what it says."""

    elements: Elements
    columns: CocoFile
    images: list[dict[str, Any]]

    @property
    def category_keys(self) -> list[tuple[int, str]]:
        return sorted((category.id, category.name) for category in self.columns.categories)


def _read(path: Path) -> _File:
    """Raises FileNotFoundError, or ValueError that tells all that training would refuse."""
    elements = split_file(path)
    file = columns(elements, str(path))
    refuse(find_problems(file, str(path)))
    if elements.annotations is None:
        raise ValueError(f"{path}: the key 'annotations' is missing")
    return _File(elements, file, [msgspec.json.decode(image) for image in elements.images or []])


def _claim(known: dict[int, Path], path: Path, kind: str, ids: Sequence[int]) -> None:
    taken = [i for i in ids if i in known]
    if taken:
        raise ValueError(
            f"{path} and {known[taken[0]]} overlap: both have {kind} id {taken[0]} ({len(taken)} such ids)"
        )
    known.update(dict.fromkeys(ids, path))


def draw(merged: Merged, count: int, seed: int) -> tuple[NDArray[np.bool_], str]:
    """Which images are the mini-val, and where it was drawn from; a function of the ids and the seed alone.

    Raises ValueError when there are not more than `count` images."""
    ids = merged.image_ids
    place = [f"{image['file_name']} {image.get('coco_url', '')}" for image in merged.images]
    candidates = np.array([SOURCE in text for text in place], bool)
    origin = f"the {counted(int(candidates.sum()), 'image')} of {SOURCE}"
    if not candidates.any():
        candidates[:] = True
        origin = f"all of {counted(len(ids), 'image')}, whose names do not tell which are of {SOURCE}"
    if count >= candidates.sum():
        raise ValueError(f"--minival {count}: must be less than {origin}")
    ranks = counter_hash(seed, ids)
    ranks[~candidates] = np.iinfo(np.uint64).max
    chosen = np.zeros(len(ids), bool)
    chosen[np.argsort(ranks, kind="stable")[:count]] = True
    return chosen, f"{count} drawn from {origin}, seed {seed}"


def chosen_by_list(merged: Merged, path: Path) -> tuple[NDArray[np.bool_], str]:
    """The images whose ids stand in a file, one a line. Raises ValueError for an id that no image has."""
    words = read_text(path, "list of image ids").split()
    if wrong := [word for word in words if not word.isdecimal() or int(word) >= 2**63]:
        raise ValueError(f"{path}: {wrong[0]!r} is no image id")
    wanted = np.unique(np.array(words, np.int64))
    ids = merged.image_ids
    if len(absent := np.setdiff1d(wanted, ids)):
        raise ValueError(f"{path}: {len(absent)} of {len(wanted)} ids are of no image, first {absent[0]}")
    return np.isin(ids, wanted), f"{len(wanted)} listed in {path.name}"


def write(merged: Merged, chosen: NDArray[np.bool_], path: Path, description: str) -> tuple[int, int]:
    """Writes the chosen images and their annotations; returns how many there are of both."""
    images = [image for image, keep in zip(merged.images, chosen.tolist(), strict=True) if keep]
    keep = np.isin(merged.annotation_image_ids, merged.image_ids[chosen]).tolist()
    annotations = [text for text, wanted in zip(merged.annotations, keep, strict=True) if wanted]
    content = {
        "info": {"description": description},
        "licenses": merged.licenses,
        "categories": merged.categories,
        "images": images,
        "annotations": annotations,
    }
    write_atomically(path, msgspec.json.encode(content))
    return len(images), len(annotations)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog=program("detection.split"), description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("annotations", type=Path, nargs="+", help="annotation files in COCO format")
    size = parser.add_mutually_exclusive_group(required=True)
    size.add_argument("--minival", type=whole(1), help="images to draw at random; the paper has 8000")
    size.add_argument(
        "--minival-ids", type=Path, metavar="FILE", help="list of image ids, one a line, instead"
    )
    parser.add_argument("--seed", type=whole(), default=0, help="of the drawing; default: 0")
    parser.add_argument("--output", type=Path, required=True, help="folder for train.json and minival.json")
    options = parser.parse_args(arguments)
    try:
        check_output(options.output, folder=True)
        merged = merge(options.annotations)
        if options.minival_ids is None:
            chosen, how = draw(merged, options.minival, options.seed)
        else:
            chosen, how = chosen_by_list(merged, options.minival_ids)
        sources = {real_path(path) for path in options.annotations}
        for name in ("train", "minival"):
            if real_path(path := options.output / f"{name}.json") in sources:
                raise ValueError(f"{path} is read and would be overwritten: choose another --output")
        text = f"{' + '.join(merged.sources)}: mini-val = {how}"
        for name, part in (("train", ~chosen), ("minival", chosen)):
            path = options.output / f"{name}.json"
            images, boxes = write(merged, part, path, f"{name} of {text}")
            print(f"{path}: {counted(images, 'image')}, {counted(boxes, 'annotation')}")
    except (ValueError, OSError) as error:
        print(printable_lines(told(error)), file=sys.stderr)
        return 1
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
