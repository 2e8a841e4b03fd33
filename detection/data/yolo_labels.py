"""YOLO's labels: a text file per image, a line per object, in shares of the image's sides.

    images/a.jpg    labels/a.txt: `class centre_x centre_y width height`, or `class x y x y x y …`, a polygon

Class names, by their index, stand in `data.yaml` (key `names`) or `classes.txt`. Source: the description of
the format in Ultralytics' documentation; an image without a label file has no objects there, too.
"""

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from detection.data.image_check import upright_size
from detection.data.labels import DECIMALS, Faults, LabelledImage, LabelledImages, LabelledObject, cut
from runtime.pictures import image_files
from runtime.progress import track

NAMES = ("classes.txt", "labels/classes.txt", "obj.names")
TOLERANCE = 0.01
"""Share by which a number may lie outside 0..1; what reaches out of the image is cut."""


def read_yolo(root: Path, split: str | None) -> LabelledImages:
    """split: a part of it, `images/SPLIT` with `labels/SPLIT`, or `SPLIT/images` with `SPLIT/labels`.

    Raises FileNotFoundError for a missing folder, ValueError that lists faults by file and line."""
    folder, labels = _folders(root, split)
    categories = _categories(root)
    files = list(image_files(folder))
    if not files:
        raise ValueError(f"{folder}: no images in this folder")
    faults = Faults()
    images: list[LabelledImage] = []
    taken: dict[Path, Path] = {}
    with track(len(files), "import", images_per_unit=1) as progress:
        for path in files:
            name = path.relative_to(folder)
            label = labels / name.with_suffix(".txt")
            if label.is_file() and (first := taken.setdefault(label, path)) != path:
                faults.add(label, f"labels of two images, {first} and {path}")
            try:
                size = upright_size(path)
            except ValueError as error:
                faults.shown.append(str(error))
            else:
                found = list(_objects(label, size, categories, faults)) if label.is_file() else []
                images.append(LabelledImage(name.as_posix(), *size, found))
            progress.advance()
    for orphan in sorted(set(_label_files(labels)) - taken.keys()):
        faults.add(orphan, f"labels without an image in {folder}")
    faults.refuse()
    return LabelledImages(folder, categories, images)


def _label_files(folder: Path, around: tuple[str, ...] = ()) -> Iterator[Path]:
    """Below links to folders, too, but for those to a folder around them, which would never end."""
    around = (*around, os.path.realpath(folder))
    for path in folder.iterdir():
        if path.is_dir():
            if os.path.realpath(path) not in around:
                yield from _label_files(path, around)
        elif path.suffix == ".txt" and path.name != "classes.txt":
            yield path


def _folders(root: Path, split: str | None) -> tuple[Path, Path]:
    """Of the images and of the labels."""
    pairs = [(root / "images", root / "labels")]
    if split is not None:
        pairs = [
            (root / "images" / split, root / "labels" / split),
            (root / split / "images", root / split / "labels"),
        ]
    for images, labels in pairs:
        if images.is_dir() and labels.is_dir():
            return images, labels
    expected = " or ".join(f"{images} and {labels}" for images, labels in pairs)
    raise FileNotFoundError(f"{root}: no YOLO data set, expected the folders {expected}")


def _categories(root: Path) -> list[str]:
    for path in sorted([*root.glob("*.yaml"), *root.glob("*.yml")]):
        try:
            content = yaml.safe_load(path.read_bytes())
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: not YAML: {error}") from None
        if isinstance(content, dict) and "names" in content:
            return _checked(path, _in_order(path, content["names"]))
    for name in NAMES:
        if (path := root / name).is_file():
            return _checked(path, path.read_text(encoding="utf-8-sig").split("\n"))
    raise FileNotFoundError(
        f"{root}: no class names, expected data.yaml with the key names, or one of {', '.join(NAMES)}"
    )


def _in_order(path: Path, names: object) -> list[object]:
    if isinstance(names, dict):
        if sorted(names) != list(range(len(names))):
            raise ValueError(f"{path}: names has the keys {sorted(names)[:5]}…, expected 0, 1, 2, …")
        return [names[index] for index in range(len(names))]
    if isinstance(names, list):
        return names
    raise ValueError(
        f"{path}: names is {type(names).__name__}, expected a list, or a mapping from 0, 1, 2, …"
    )


def _checked(path: Path, names: Sequence[object]) -> list[str]:
    words = [str(name).strip() for name in names]
    while words and not words[-1]:
        words.pop()
    for name in words:
        if not name or words.count(name) > 1:
            raise ValueError(f"{path}: class name {name!r} is empty or given more than once")
    if not words:
        raise ValueError(f"{path}: no class names")
    return words


def _objects(
    path: Path, size: tuple[int, int], categories: Sequence[str], faults: Faults
) -> Iterator[LabelledObject]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        faults.add(path, f"not text: {error}")
        return
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            yield _object(line.split(), size, categories)
        except ValueError as error:
            faults.add(path, str(error), number)


def _object(words: Sequence[str], size: tuple[int, int], categories: Sequence[str]) -> LabelledObject:
    """Raises ValueError that says what is wrong with the line."""
    if len(words) != 5 and (len(words) < 7 or not len(words) % 2):
        raise ValueError(
            f"{len(words)} words, expected 5 (class, centre x, centre y, width, height) or a class and the "
            "points of a polygon"
        )
    if not words[0].isdecimal() or int(words[0]) >= len(categories):
        raise ValueError(f"class {words[0]}, expected one of 0..{len(categories) - 1}")
    category = categories[int(words[0])]
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
        raise ValueError(f"the box {list(bbox)} (x, y, width, height in pixels) has no area")
    return LabelledObject(category, bbox, polygon=points)


def _share(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        raise ValueError(f"{word!r} is no number") from None
    if not math.isfinite(value) or not -TOLERANCE <= value <= 1 + TOLERANCE:
        raise ValueError(f"{word} is not in 0..1, expected a share of the image's width or height")
    return value
