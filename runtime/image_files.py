"""Image files of any format: what counts as one, reading, decoding."""

import os
import struct
from collections.abc import Callable
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


def shown(path: Path) -> str:
    """A file's name as far as it is UTF-8: JSON has no other names, nor have most terminals."""
    return os.fsencode(path).decode("utf-8", "replace")
