"""Images that a YOLO data.yaml lists: text files with a path a line, or several folders.

Source: Ultralytics' `BaseDataset.get_img_files` and `img2label_paths`. A line that begins with `./` is below
the list's own folder, any other below the data set, or else below the list's folder; the label file of an
image has `labels` in place of the last `images` of its path.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from backbones.files import read_text
from backbones.words import clipped
from runtime.pictures import image_files, is_image


class ListedImage(NamedTuple):
    """where: the line that names it, for messages; of a folder, the folder."""

    path: Path
    where: Path
    line: int | None


def listed_images(sources: Sequence[Path], root: Path) -> tuple[ListedImage, ...]:
    """The images in folders and of text files, each once. root: of the data set.

    They need not be there. Raises ValueError that names the file and the line of what is no image's name."""
    found: dict[Path, ListedImage] = {}
    for source in sources:
        for each in _in_folder(source) if source.is_dir() else _in_list(source, root):
            found.setdefault(each.path, each)
    if not found:
        raise ValueError(f"{', '.join(map(str, sources))}: no images")
    return tuple(found.values())


def common_folder(images: Sequence[ListedImage]) -> Path:
    """The nearest folder that all of them are below."""
    return Path(os.path.commonpath([each.path.parent for each in images]))


def label_of(image: Path) -> Path:
    """The label file of an image, which need not be there."""
    parts = list(image.parent.parts)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return Path(*parts, f"{image.stem}.txt")


def _in_folder(folder: Path) -> list[ListedImage]:
    return [ListedImage(path, folder, None) for path in image_files(folder)]


def _in_list(path: Path, root: Path) -> list[ListedImage]:
    found = []
    for number, line in enumerate(read_text(path, "list of images").splitlines(), start=1):
        name = line.strip()
        if not name:
            continue
        if "\0" in name or not is_image(name):
            raise ValueError(f"{path}:{number}: {clipped(name)} is not the name of an image")
        beside, below = (Path(os.path.normpath(folder / name)) for folder in (path.parent, root))
        place = beside if name.startswith("./") or not os.path.isfile(below) else below
        found.append(ListedImage(place, path, number))
    return found
