"""YOLO's labels: a text file per image, a line per object, in shares of the image's sides.

    images/a.jpg    labels/a.txt: `class centre_x centre_y width height`, or `class x y x y x y …`, a polygon

Where `data.yaml` has `kpt_shape: [n, d]`, n·d words of a pose follow the box and are left out. Source:
the description of the format in Ultralytics' documentation. An image without a label file has no objects, as
there.
"""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from backbones.files import read_text
from backbones.words import clipped, counted
from detection.data.labels import (
    DECIMALS,
    Faults,
    LabelledImage,
    LabelledImages,
    LabelledObject,
    Wrong,
    choose_folders,
    cut,
    label_files,
    lies_beside_images,
    only_one,
    picture_files,
    picture_size,
)
from detection.data.listed_files import Nearest
from detection.data.splits import FolderNames, note_merged_folders, split_folders, split_pairs
from detection.data.yolo_lists import ListedImage, label_of
from detection.data.yolo_names import YoloNames, read_names
from runtime.problems import SHOWN
from runtime.progress import track

SUFFIX = ".txt"
FOLDERS = FolderNames(("images",), ("labels",), SUFFIX)
TOLERANCE = 0.01
"""Share by which a number may lie outside 0..1; what reaches out of the image is cut."""


def read_yolo(
    root: Path,
    split: str | None,
    images: Path | None = None,
    annotations: Path | None = None,
    shown: int = SHOWN,
) -> LabelledImages:
    """split: a part of it, `images/SPLIT` with `labels/SPLIT`, `SPLIT/images` with `SPLIT/labels`, or `SPLIT`
    with labels beside its images. None: all of `images`; splits that this merges are told as a warning.

    images, annotations: folders of the images and of their label files, where they lie elsewhere.
    shown: of each kind of fault. Raises FileNotFoundError for a missing folder, LabelFaults by kind, file and
    line."""
    splits = split_folders(root, FOLDERS)
    folder, labels = _folders(root, split, (images, annotations), list(splits))
    faults = Faults(shown)
    names = read_names(root, faults)
    files = picture_files(folder, faults)
    if not files and not faults.problems:
        raise ValueError(f"{folder}: no images in this folder")
    by_name = label_files(labels, SUFFIX)
    keys = {path: path.relative_to(folder).with_suffix("").as_posix() for path in files}
    found = _read(folder, {path: by_name.get(key, []) for path, key in keys.items()}, names, faults)
    nearest = Nearest(folder)
    for key in sorted(by_name.keys() - set(keys.values())):
        for orphan in by_name[key]:
            _note_orphan(orphan, key, nearest, faults)
    if split is None:
        given = images is not None or annotations is not None
        note_merged_folders(faults, (folder, labels), (image.file_name for image in found), splits, given)
    faults.refuse()
    unlabelled = len(files) - len(by_name.keys() & set(keys.values()))
    return LabelledImages(folder, names.categories, found, unlabelled, faults.problems)


def read_listed_yolo(
    root: Path, folder: Path, listed: Sequence[ListedImage], shown: int = SHOWN
) -> LabelledImages:
    """The images that data.yaml in `root` lists, all below `folder`, each with the label file that it has.

    shown, and what is raised: as of `read_yolo`."""
    faults = Faults(shown)
    names = read_names(root, faults)
    labels: dict[Path, list[Path]] = {}
    for each in listed:
        if os.path.isfile(each.path):  # False for a name that is too long, too
            label = label_of(each.path)
            labels[each.path] = [label] if os.path.lexists(label) else []
        else:
            faults.add("listed image is not there", each.where, f"{each.path} is not there", each.line)
    found = _read(folder, labels, names, faults)
    faults.refuse()
    unlabelled = sum(not each for each in labels.values())
    return LabelledImages(folder, names.categories, found, unlabelled, faults.problems)


def _read(
    folder: Path, labels: Mapping[Path, Sequence[Path]], names: YoloNames, faults: Faults
) -> list[LabelledImage]:
    """labels: label files, at most one but for a fault, by the image's path, which is below `folder`."""
    found: list[LabelledImage] = []
    taken: dict[Path, Path] = {}
    """By a label file: its first image."""
    with track(len(labels), "import", images_per_unit=1) as progress:
        for path, own in labels.items():
            label = only_one(own, faults) if own else None
            if own and (first := taken.setdefault(own[0], path)) != path:
                text = f"labels of two images, {first} and {path}"
                faults.add("one label file of several images", own[0], text)
            if (size := picture_size(path, faults)) is not None:
                objects = list(_objects(label, size, names, faults)) if label is not None else []
                found.append(LabelledImage(path.relative_to(folder).as_posix(), *size, objects))
            progress.advance()
    return found


def _folders(
    root: Path, split: str | None, given: tuple[Path | None, Path | None], splits: Sequence[str]
) -> tuple[Path, Path]:
    """Of the images and of the labels."""
    pairs = FOLDERS.inside(root)
    if split is not None:
        pairs = split_pairs(root, split, FOLDERS)
    elif not pairs[0][0].is_dir() and lies_beside_images(root, SUFFIX):
        pairs.append((root, root))
    return choose_folders("YOLO", root, pairs, given, splits, SUFFIX)


def _note_orphan(path: Path, key: str, nearest: Nearest, faults: Faults) -> None:
    """Labels whose image is not there are a fault; a text that holds no labels is only told of."""
    try:
        rows = [line.split() for line in read_text(path, "label").splitlines()]
    except (ValueError, OSError):
        rows = []
    if any(len(row) >= 5 and all(_is_number(word) for word in row) for row in rows):
        text = f"labels without an image in {nearest.folder}{nearest.of_label(key)}"
        faults.add("labels without an image", path, text)
    elif path.name != "classes.txt":
        faults.add("text without an image and without labels", path, "left out", level="warning")


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _objects(path: Path, size: tuple[int, int], names: YoloNames, faults: Faults) -> Iterator[LabelledObject]:
    try:
        text = read_text(path, "label")
    except (ValueError, OSError) as error:
        faults.add("label file cannot be read", path, str(error).removeprefix(f"{path}: "))
        return
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            yield _object(line.split(), size, names)
        except Wrong as error:
            faults.add(error.kind, path, str(error), number)


def _object(words: Sequence[str], size: tuple[int, int], names: YoloNames) -> LabelledObject:
    """Raises Wrong."""
    _check_length(words, names.keypoints)
    category = names.categories[_index(words[0], len(names.categories))]
    if names.keypoints is not None:
        _check_keypoints(words[5:])
        words = words[:5]
    shares = [_share(word) for word in words[1:]]
    width, height = size
    if len(shares) > 4:
        xs, ys = [x * width for x in shares[::2]], [y * height for y in shares[1::2]]
        bbox = cut(min(xs), min(ys), max(xs), max(ys), size)
        points = [round(value, DECIMALS) for point in zip(xs, ys, strict=True) for value in point]
    else:
        x, y, w, h = shares
        edges = (x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height
        bbox, points = cut(*edges, size), None
    if min(bbox[2:]) <= 0:
        raise Wrong("box has no area", f"the box {list(bbox)} (x, y, width, height in pixels) has no area")
    return LabelledObject(category, bbox, polygon=points)


def _check_length(words: Sequence[str], keypoints: int | None) -> None:
    count = len(words)
    if keypoints is not None:
        if count in (5, 5 + keypoints):
            return
        expected = f"5 or, by kpt_shape in data.yaml, {5 + keypoints}"
    else:
        if count == 5 or (count >= 7 and count % 2):
            return
        expected = "5 (class, centre x, centre y, width, height) or a class and the points of a polygon"
        if count == 6:
            expected += "; is the last one a confidence?"
        elif count > 6:
            expected += "; poses need kpt_shape in data.yaml"
    commas = "; found commas, expected blanks between numbers" if any("," in word for word in words) else ""
    raise Wrong("row has another number of words", f"{counted(count, 'word')}, expected {expected}{commas}")


def _index(word: str, count: int) -> int:
    """As `1` or, of numpy.savetxt, `1.0`."""
    value = float(word) if _is_number(word) else math.nan
    if not (value.is_integer() and 0 <= value < count):
        raise Wrong(
            "class is none of the names", f"class {clipped(word)[1:-1]}, expected one of 0..{count - 1}"
        )
    return int(value)


def _check_keypoints(words: Sequence[str]) -> None:
    for word in words:
        if not (_is_number(word) and math.isfinite(float(word))):
            raise Wrong("keypoint is no number", f"{clipped(word)} in a keypoint is no finite number")


def _share(word: str) -> float:
    if not _is_number(word):
        raise Wrong("number cannot be read", f"{clipped(word)} is no number")
    value = float(word)
    if not math.isfinite(value) or not -TOLERANCE <= value <= 1 + TOLERANCE:
        raise Wrong(
            "number is not in 0..1",
            f"{clipped(word)[1:-1]} is not in 0..1, expected a share of the image's width or height",
        )
    return value
