"""Splits annotation files in COCO format into training and validation images.

    python -m detection.split ANNOTATIONS.json --fraction 0.2 --stratify
    python -m detection.split instances_train2014.json instances_val2014.json --minival 8000 --output DIR

`--fraction` writes `train.json` and `val.json`, by default beside the annotations. Which images are held out
depends on their names and the seed alone, so that they stay held out when others are added. `--stratify`
keeps the share of each category, an image counting for the rarest one on it.

`--minival` makes the paper's split, `train.json` and `minival.json`. The paper names 8,000 images and no
list. TensorFlow's detection model zoo, where its NASNet detector is published, evaluates on 8,059 images of
val2014, listed in `object_detection/data/mscoco_minival_ids.txt` of tensorflow/models: `--minival-ids FILE`
takes such a list. Of COCO 2014, a number draws from the images of val2014, which their names tell; files of
COCO 2017 hold the same images but do not say which are val2014's, so there, as with other data, it draws from
all, and says so.

Several files get their folder into `file_name` (`instances_val2014.json`: `val2014/…`), so that
`data.train_images=.` finds the images of all.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backbones.arguments import number, one_line_errors, whole
from backbones.files import check_output, read_text, real_path
from backbones.words import clipped, counted
from celltransfer import program
from detection.data.subsets import Merged, draw_fraction, merge, write
from runtime.random import counter_hash

SOURCE = "val2014"


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
    if wrong := [word for word in words if not word.isdecimal() or len(word) > 19 or int(word) >= 2**63]:
        raise ValueError(f"{path}: {clipped(wrong[0])} is no image id")
    wanted = np.unique(np.array(words, np.int64))
    ids = merged.image_ids
    if len(absent := np.setdiff1d(wanted, ids)):
        raise ValueError(f"{path}: {len(absent)} of {len(wanted)} ids are of no image, first {absent[0]}")
    return np.isin(ids, wanted), f"{len(wanted)} listed in {path.name}"


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog=program("detection.split"), description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("annotations", type=Path, nargs="+", help="annotation files in COCO format")
    size = parser.add_mutually_exclusive_group(required=True)
    size.add_argument("--fraction", type=number(0.001, 0.999), help="share to hold out, such as 0.2")
    size.add_argument("--minival", type=whole(1), help="images to draw at random; the paper has 8000")
    size.add_argument(
        "--minival-ids", type=Path, metavar="FILE", help="list of image ids, one a line, instead"
    )
    parser.add_argument("--stratify", action="store_true", help="with --fraction: keep each category's share")
    parser.add_argument("--seed", type=whole(), default=0, help="of the drawing; default: 0")
    parser.add_argument("--output", type=Path, help="folder to write to; default: that of the annotations")
    options = parser.parse_args(arguments)
    if options.stratify and options.fraction is None:
        parser.error("--stratify goes with --fraction")
    text = _split(options)
    print(text)
    return 0


def _split(options: argparse.Namespace) -> str:
    """Writes both parts; returns how they were drawn. Raises ValueError or OSError."""
    held = "minival" if options.fraction is None else "val"
    folder = options.output or options.annotations[0].parent
    check_output(folder, folder=True)
    paths = {name: folder / f"{name}.json" for name in ("train", held)}
    sources = {real_path(path) for path in options.annotations}
    for path in paths.values():
        if real_path(path) in sources:
            raise ValueError(f"{path} is read and would be overwritten: choose another --output")
        if options.output is None and path.exists():
            raise ValueError(f"{path} is there already: choose a folder with --output")
    merged = merge(options.annotations)
    chosen, how = _chosen(merged, options)
    text = f"{' + '.join(merged.sources)}: {held.replace('minival', 'mini-val')} = {how}"
    for name, part in (("train", ~chosen), (held, chosen)):
        images, boxes = write(merged, part, paths[name], f"{name} of {text}")
        print(f"{paths[name]}: {counted(images, 'image')}, {counted(boxes, 'annotation')}")
    return text


def _chosen(merged: Merged, options: argparse.Namespace) -> tuple[NDArray[np.bool_], str]:
    """Which images are held out, and how they were drawn."""
    if options.fraction is not None:
        chosen = draw_fraction(merged, options.fraction, options.seed, stratify=options.stratify)
        by = "by name, " + ("stratified by category, " if options.stratify else "")
        return chosen, f"{int(chosen.sum())} of {counted(len(chosen), 'image')}, {by}seed {options.seed}"
    if options.minival_ids is None:
        return draw(merged, options.minival, options.seed)
    return chosen_by_list(merged, options.minival_ids)


if __name__ == "__main__":
    sys.exit(main())
