"""A user's folder of labelled images, in any of the layouts, as annotation files in COCO format.

COCO files that have a split are read where they are. All else is converted once, into the user's cache,
under a digest of what the folder holds: a folder that has changed is converted anew, and nothing is written
to it.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from backbones.files import existing, read_json, write_json
from backbones.ranges import KEY, ConfigError
from backbones.words import counted, printable
from detection.data.coco_text import split_file
from detection.data.image_check import damaged_images
from detection.data.imported import read_part, write_labels
from detection.data.labels import child
from detection.data.layouts import COCO, Layout, Part, layout_name, recognise
from detection.data.subsets import Merged, draw_fraction, merge, write
from detection.data.yolo_lists import label_of
from runtime.cache import cache_folder, write_folder
from runtime.pictures import entries, is_folder, is_image, walk
from runtime.problems import SHOWN

log = logging.getLogger(__name__)

WRITER = 2
"""Version of what this file writes; part of the digest."""
MADE = "made.json"
"""In a converted folder: how it was made, written last."""
LABEL_SUFFIXES = (".txt", ".xml", ".json", ".yaml", ".yml", ".names")


class Place(NamedTuple):
    """An annotation file and the folder of its images."""

    annotations: Path
    images: Path


class OwnFolder(NamedTuple):
    """told: the layout and the split, in one line."""

    train: Place
    val: Place
    told: str


def open_folder(root: Path, kind: str | None, fraction: float, seed: int) -> OwnFolder:
    """Recognises the layout, and converts the labels and draws the split where that has to be done.

    kind: of `layouts.LAYOUTS`; None: what is found. fraction, seed: of the images held out for validation
    where the folder has no split. Raises ConfigError for a folder of no known layout, and what the readers of
    the layouts raise."""
    layout = recognise(root, kind)
    train = layout.parts.get("train") or layout.parts["whole"]
    val = layout.parts.get("val") or layout.parts.get("test")
    if val is not None and layout.in_place:
        told = _told(layout, train, val, train.labels, val.labels)
        return OwnFolder(Place(train.labels, train.images), Place(val.labels, val.images), told)
    drawn = _Drawn(fraction, seed)
    folder = cache_folder() / f"folder-{_digest(layout, train, val, drawn)}"
    if not (folder / MADE).is_file():
        log.info("%s: converting the labels into %s", root, folder)
        try:
            write_folder(folder, MADE, lambda empty: _convert(layout, train, val, drawn, empty))
        except PermissionError as error:
            raise ConfigError(
                f"{KEY}root = {root} is converted into {folder}, which cannot be written "
                f"({error.strerror}); set XDG_CACHE_HOME to a folder that can"
            ) from None
    told = str(read_json(folder / MADE, "converted folder")["told"])
    held = val or train
    return OwnFolder(
        Place(folder / "train.json", train.images), Place(folder / "val.json", held.images), told
    )


class _Drawn(NamedTuple):
    """Of the images held out where there is no split."""

    fraction: float
    seed: int


def _convert(layout: Layout, train: Part, val: Part | None, drawn: _Drawn, folder: Path) -> None:
    """Writes `train.json`, `val.json` and how they were made."""
    paths = {name: folder / f"{name}.json" for name in ("train", "val")}
    if val is not None:
        lost = []
        for part, path in ((train, paths["train"]), (val, paths["val"])):
            merged = merge([_import(layout, part, path)])
            whole = _whole(merged, part.images)
            if not whole.all():
                write(merged, whole, path, f"{part.name} of {printable(layout.root.name)}")
            lost += _names(merged, ~whole)
        how = _told(layout, train, val, paths["train"], paths["val"])
    else:
        source = train.labels if layout.kind == COCO else _import(layout, train, folder / "whole.json")
        merged = merge([source])
        whole = _whole(merged, train.images)
        lost = _names(merged, ~whole)
        chosen = draw_fraction(merged, drawn.fraction, drawn.seed, stratify=True)
        how = (
            f"{layout_name(layout)}, no split: {100 * drawn.fraction:g} % drawn for validation by seed "
            f"{drawn.seed} ({int((chosen & whole).sum())} of {counted(int(whole.sum()), 'image')}); "
            f"{counted(len(merged.categories), 'class', 'classes')}"
        )
        for name, drawn_part in (("train", ~chosen), ("val", chosen)):
            description = f"{name} of {printable(layout.root.name)}: {how}"
            write(merged, drawn_part & whole, paths[name], description)
    if lost:
        more = f" and {len(lost) - SHOWN} more" if len(lost) > SHOWN else ""
        how += f"; damaged and left out: {printable(', '.join(lost[:SHOWN]))}{more}"
    write_json(folder / MADE, {"told": how, "from": str(layout.root.absolute())})


def _whole(merged: Merged, folder: Path) -> NDArray[np.bool_]:
    """Which images can be decoded; the others, which would end a training at some step, are told.

    Raises ValueError where none can."""
    names = _names(merged, np.ones(len(merged.images), bool))
    damaged = damaged_images(folder, names)
    for name, problem in damaged.items():
        log.warning("%s: %s: left out", folder / name, problem)
    if len(damaged) == len(names):
        raise ValueError(f"{folder}: none of {counted(len(names), 'image')} can be decoded")
    return np.array([name not in damaged for name in names])


def _names(merged: Merged, chosen: NDArray[np.bool_]) -> list[str]:
    return [
        str(image["file_name"])
        for image, wanted in zip(merged.images, chosen.tolist(), strict=True)
        if wanted
    ]


def _import(layout: Layout, part: Part, output: Path) -> Path:
    """Writes the labels of a part as a COCO file. What the check warns of is logged."""
    labelled = read_part(layout, part)
    for problem in write_labels(labelled, layout.kind, layout.root, output, str(part.labels)):
        log.warning("%s", problem)
    return output


def _told(layout: Layout, train: Part, val: Part, *files: Path) -> str:
    """files: annotation files of both."""
    elements = [split_file(path) for path in files]
    counts = [counted(len(each.images or []), "image") for each in elements]
    text = (
        f"{layout_name(layout)}: trained on {train.name} ({counts[0]}), scored on {val.name} ({counts[1]}); "
    )
    unused = [part.name for part in layout.parts.values() if part not in (train, val)]
    if unused:
        text += f"{' and '.join(unused)} not used; "
    return text + counted(len(elements[0].categories or []), "class", "classes")


def _digest(layout: Layout, train: Part, val: Part | None, drawn: _Drawn) -> str:
    """Of all that the conversion reads: of label files the content, of images the size and the time of
    change. Where the folder lies is no part of it, but for parts outside of it."""
    parts = [part for part in (train, val) if part is not None]
    places = [
        [part.name, _below(part.images, layout.root), _below(part.labels, layout.root)] for part in parts
    ]
    digest = hashlib.sha256(
        json.dumps([WRITER, layout.kind, places, *(drawn if val is None else ())]).encode()
    )
    for path in dict.fromkeys(_files(layout, parts)):
        digest.update(f"\n{_below(path, layout.root)} ".encode(errors="surrogateescape"))
        digest.update(_state(path))
    return digest.hexdigest()[:16]


def _files(layout: Layout, parts: Sequence[Part]) -> Iterator[Path]:
    if layout.kind == COCO:
        yield from (part.labels for part in parts)
        return
    yield from (Path(entry.path) for entry in entries(layout.root) if not is_folder(entry))
    listed = [each.path for part in parts for each in part.listed]
    yield from listed
    yield from filter(Path.exists, map(label_of, listed))
    folders = [
        child(layout.root, "ImageSets"),
        *(folder for part in parts if not part.listed for folder in (part.images, part.labels)),
    ]
    for folder in dict.fromkeys(folders):
        if folder.is_dir():
            yield from (Path(entry.path) for entry in walk(folder) if not is_folder(entry))


def _state(path: Path) -> bytes:
    if path.name.lower().endswith(LABEL_SUFFIXES):
        try:
            return hashlib.sha256(existing(path, "label").read_bytes()).digest()
        except (ValueError, OSError):  # which the reader tells
            return b"unreadable"
    if not is_image(path.name):
        return b""
    try:
        known = os.stat(path)
    except OSError:
        return b"unreadable"
    return f"{known.st_size} {known.st_mtime_ns}".encode()


def _below(path: Path, root: Path) -> str:
    return os.path.relpath(path, root) if path.is_relative_to(root) else str(path)
