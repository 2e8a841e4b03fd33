"""Annotation files in COCO format taken together and written again in parts, masks and all."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from backbones.files import write_atomically
from detection.data.coco_file import CocoFile, columns
from detection.data.coco_rules import find_problems
from detection.data.coco_text import Elements, split_file
from runtime.held_out import held_out
from runtime.problems import refuse

PREFIX = "instances_"


@dataclass(frozen=True)
class Merged:
    """Several annotation files as one. annotations: their text as it stands, masks included."""

    images: list[dict[str, Any]]
    image_ids: NDArray[np.int64]
    annotations: list[msgspec.Raw]
    annotation_image_ids: NDArray[np.int64]
    annotation_category_ids: NDArray[np.int64]
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
        np.concatenate([file.columns.category_ids for file in files]),
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


def draw_fraction(merged: Merged, fraction: float, seed: int, *, stratify: bool) -> NDArray[np.bool_]:
    """Which images are held out, by their names: see `held_out`.

    stratify: each category's share is kept, an image counting for the rarest one on it; images without
    boxes are a group of their own."""
    names = [str(image["file_name"]) for image in merged.images]
    return held_out(names, fraction, seed, rarest_categories(merged) if stratify else None)


def rarest_categories(merged: Merged) -> list[int | None]:
    """Of each image, the id of the category on it that the fewest images have; None without boxes."""
    pairs = np.unique(np.stack([merged.annotation_image_ids, merged.annotation_category_ids], 1), axis=0)
    ids, counts = np.unique(pairs[:, 1], return_counts=True)
    images_with = dict(zip(ids.tolist(), counts.tolist(), strict=True))
    rarest: dict[int, int] = {}
    for image, category in pairs.tolist():
        known = rarest.get(image)
        if known is None or (images_with[category], category) < (images_with[known], known):
            rarest[image] = category
    return [rarest.get(image) for image in merged.image_ids.tolist()]


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
