"""`<split>/<class>/<image>` as it lies on the disk, with every departure from that layout.

Only numbers are kept, and the files are walked again, in the same order, whenever they are needed.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from runtime.pictures import entries, image_files, is_image


class FilePlace(NamedTuple):
    """An image file, the name of its split's folder, its class folder."""

    path: Path
    split: str
    label: str


class AddProblem(Protocol):
    def __call__(self, rule: str, name: str, level: str = "error") -> None: ...


@dataclass(frozen=True)
class Layout:
    """A split's folder and its images by class, counted."""

    folder: Path
    images: dict[str, int]

    def files(self) -> Iterator[FilePlace]:
        """The images that a training reads, by class and name."""
        for label in self.images:
            for path in image_files(self.folder / label):
                yield FilePlace(path, self.folder.name, label)


def read_layout(folder: Path, add: AddProblem) -> Layout:
    """Counts a split's images; tells `add` what is not `<class>/<image>`."""
    images: dict[str, int] = {}
    if not folder.is_dir():
        add("no such folder; DIR must hold <split>/<class>/<image>", folder.name)
        return Layout(folder, images)
    root = folder.parent
    for entry in entries(folder):
        if entry.is_dir():
            images[entry.name] = _read_class(Path(entry.path), root, add)
        elif is_image(entry.name):
            add("image directly in the split's folder, in no class", _shown(entry, root), "left out")
        else:
            add("no image file", _shown(entry, root), "left out")
    if not images:
        add("no class folders", folder.name)
    elif len(images) == 1:
        add("only one class folder", f"{folder.name}/{next(iter(images))}")
    return Layout(folder, images)


def _read_class(folder: Path, root: Path, add: AddProblem) -> int:
    def other(entry: os.DirEntry[str]) -> None:
        if entry.is_dir():
            add("folder inside a class folder; its images count as the outer class's", _shown(entry, root))
        else:
            add("no image file", _shown(entry, root), "left out")

    def loop(path: str) -> None:
        add("link to a folder around it", os.path.relpath(path, root))

    count = sum(1 for _ in image_files(folder, other, loop))
    if not count:
        add("no image in this class folder", os.path.relpath(folder, root))
    return count


def _shown(entry: os.DirEntry[str], root: Path) -> str:
    return os.path.relpath(entry.path, root)
