"""The image files that a command line names, and those of them that cost nothing but themselves."""

import glob
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from backbones.words import printable, told
from runtime import zipped
from runtime.pictures import decode, is_folder, is_heic, is_image, walk


class Unread(NamedTuple):
    """A file or word of the command line, and why there is nothing to be seen; the reason names it."""

    name: str
    reason: str


def find_images(words: Iterable[str]) -> tuple[list[Path], list[Unread]]:
    """The files among `words` and the images in and under the folders, in order, and the words without any.

    Hidden files are left out. A word that is no path is a pattern, `**` any folders: quoted patterns of a
    shell, or one that has none. A file that is no image is found, too: who reads it says so."""
    found: list[Path] = []
    unread: list[Unread] = []
    for word in words:
        there = os.path.lexists(word) or zipped.place(word) is not None
        paths = [word] if there else sorted(glob.glob(word, recursive=True))
        if not paths:
            unread.append(Unread(word, f"{word}: no such image or folder"))
        for path in map(Path, paths):
            try:
                images = list(_named_images(path)) if zipped.is_folder(path) else [path]
            except (OSError, ValueError) as error:
                unread.append(Unread(str(path), told(error)))
                continue
            if not images:
                unread.append(Unread(str(path), f"{path}: no images in this folder"))
            found += images
    return found, unread


def _named_images(folder: Path) -> Iterator[Path]:
    """Whatever has an image's name: what cannot be read is to be told, not passed over."""
    for entry in walk(folder):
        if not is_folder(entry) and (is_image(entry.name) or is_heic(entry.name)):
            yield Path(entry.path)


def tell_unread(unread: Sequence[Unread], read: int) -> None:
    """Prints the reasons and a count on standard error, nothing where all were read. read: how many were."""
    for one in unread:
        print(printable(one.reason), file=sys.stderr)
    if unread and read + len(unread) > 1:
        print(f"{len(unread)} of {read + len(unread)} could not be read", file=sys.stderr)


def pictures_of(words: Iterable[str], most: int) -> list[Image.Image]:
    """The first `most` pictures that `words` name, as `find_images` finds them, in memory.

    Raises ValueError or OSError for the first that cannot be read."""
    paths, unread = find_images(words)
    if unread:
        raise ValueError(unread[0].reason)
    return [decode(path) for path in paths[:most]]
