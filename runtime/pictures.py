"""Image files of any format: what counts as one, finding, reading and decoding them."""

import glob
import os
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from PIL import Image, UnidentifiedImageError

from backbones.pictures import as_picture

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp")

Result = TypeVar("Result")

UNREADABLE = (
    *(UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError),
    struct.error,  # of EXIF that is rewritten when the picture is turned upright
)
"""What Pillow raises for a file that is no image, is damaged or too large."""


def decode(path: str | os.PathLike[str]) -> Image.Image:
    """Any image file as upright 8-bit RGB: EXIF rotation applied, transparency dropped, 16-bit grey scaled.

    Raises FileNotFoundError, or ValueError for a file that is no image or is cut off.
    """
    return read(path, as_picture)


def read(path: str | os.PathLike[str], take: Callable[[Image.Image], Result]) -> Result:
    """What `take` makes of the opened file, whose pixels are not decoded yet. Raises as `decode` does."""
    try:
        with Image.open(path) as file:
            return take(file)
    except FileNotFoundError:
        raise FileNotFoundError(f"{os.fspath(path)}: no such image file") from None
    except UNREADABLE as error:
        raise ValueError(f"{os.fspath(path)}: cannot be read as an image: {error}") from None


def find_images(words: Iterable[str]) -> list[Path]:
    """The files among `words` and the images in and under the folders, in order; hidden ones are left out.

    A word that is no path is a pattern, `**` any folders: quoted patterns of a shell, or one that has none.
    Raises FileNotFoundError for a word that nothing fits, ValueError for a folder without images."""
    found: list[Path] = []
    for word in words:
        paths = [word] if Path(word).exists() else sorted(glob.glob(word, recursive=True))
        if not paths:
            raise FileNotFoundError(f"{word}: no such image or folder")
        for path in map(Path, paths):
            if not path.is_dir():
                found.append(path)
                continue
            images = list(image_files(path))
            if not images:
                raise ValueError(f"{path}: no images in this folder")
            found += images
    return found


def image_files(
    folder: Path,
    other: Callable[[os.DirEntry[str]], None] | None = None,
    loop: Callable[[str], None] | None = None,
    _around: tuple[str, ...] = (),
) -> Iterator[Path]:
    """Image files in and under `folder`, in the same order each time.

    other: called with everything else that is not hidden, folders included. loop: called with links to a
    folder around them, which would never end.
    """
    around = (*(_around or (os.path.realpath(folder.parent),)), os.path.realpath(folder))
    for entry in entries(folder):
        if entry.is_dir():
            if os.path.realpath(entry.path) in around:
                if loop is not None:
                    loop(entry.path)
                continue
            if other is not None:
                other(entry)
            yield from image_files(Path(entry.path), other, loop, around)
        elif is_image(entry.name):
            yield Path(entry.path)
        elif other is not None:
            other(entry)


def is_image(name: str) -> bool:
    """By its name."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """All but hidden ones, by name."""
    with os.scandir(folder) as entries:
        return sorted((entry for entry in entries if entry.name[0] != "."), key=lambda entry: entry.name)


def shown(path: Path) -> str:
    """A file's name as far as it is UTF-8: JSON has no other names, nor have most terminals."""
    return os.fsencode(path).decode("utf-8", "replace")
