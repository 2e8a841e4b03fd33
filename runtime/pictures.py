"""Image files: which formats are read, opening and decoding them, and walking folders of them.

No other module opens an image file, so that all know the same formats and tell the same faults.
"""

import functools
import io
import os
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TypeVar

from PIL import Image, UnidentifiedImageError

from backbones.files import existing
from backbones.pictures import as_picture
from runtime import zipped

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "AVIF", "JPEG2000")
"""Pillow's names. It knows more, some of which start other programs (EPS) or are hardly ever read otherwise.
MPO is JPEG with further pictures behind it, as phones write."""
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jfif", ".mpo", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2", ".j2k"),
)
HEIC_SUFFIXES = (".heic", ".heif", ".hif")
HEIC = (
    "a HEIC picture, which is not read: convert it to JPEG (heif-convert of libheif, on a Mac "
    "sips --setProperty format jpeg, or let the phone take JPEG)"
)
_SPLIT = re.compile(
    r"(train|training|trainval|val|valid|validation|minival|test|testing|eval|dev)([^a-z].*)?", re.IGNORECASE
)
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_HIDDEN = ("__MACOSX", "@eaDir", "Thumbs.db", "desktop.ini")
"""What systems put beside the files of a user and do not show."""

Result = TypeVar("Result")
Entry = os.DirEntry[str] | zipped.Entry

UNREADABLE = (
    *(OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, AttributeError, ArithmeticError),
    *(RuntimeError, MemoryError, struct.error, zlib.error),  # the first of AVIF
    Image.DecompressionBombError,
)
"""What Pillow raises for a file that is no image, is damaged or too large."""


class HeicError(UnidentifiedImageError):
    """A picture as iPhones store it, whatever the file's name."""


@contextmanager
def open_image(file: IO[bytes] | Path) -> Iterator[Image.Image]:
    """The image in a regular file or in memory, its pixels not decoded yet, in one of FORMATS.

    Pillow's warnings are kept back: of damaged EXIF, of large images that can be read. Raises
    UnidentifiedImageError for what is none, HeicError, or others of UNREADABLE."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        try:
            image = Image.open(file, formats=_formats())
        except UnidentifiedImageError:
            if _is_heic(file):
                raise HeicError(HEIC) from None
            raise UnidentifiedImageError(f"it is none of {', '.join(FORMATS)}") from None
        with image:
            yield image


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)  # older releases have no AVIF


def _is_heic(file: IO[bytes] | Path) -> bool:
    if isinstance(file, Path):
        with file.open("rb") as opened:
            return _is_heic(opened)
    file.seek(0)
    head = file.read(12)
    return head[4:8] == b"ftyp" and head[8:] in _HEIC_BRANDS


def decode(path: str | os.PathLike[str]) -> Image.Image:
    """Any image file as upright 8-bit RGB: EXIF rotation applied, transparency dropped, 16-bit grey scaled.

    Raises FileNotFoundError, or ValueError that names a file that is no image or is cut off.
    """
    return read(path, as_picture)


def read(path: str | os.PathLike[str], take: Callable[[Image.Image], Result]) -> Result:
    """What `take` makes of the opened file, whose pixels are not decoded yet. Raises as `decode` does.

    path: may lead through a zip archive: see `runtime.zipped`."""
    at = zipped.place(path)
    file = existing(path, "image") if at is None else io.BytesIO(zipped.read(at))
    try:
        with open_image(file) as image:
            return take(image)
    except UNREADABLE as error:
        reason = str(error) or type(error).__name__
        raise ValueError(f"{os.fspath(path)}: cannot be read as an image: {reason}") from error


def image_files(
    folder: Path,
    other: Callable[[Entry], None] | None = None,
    loop: Callable[[Entry], None] | None = None,
    odd: Callable[[Entry], None] | None = None,
) -> Iterator[Path]:
    """Image files in and under `folder`, in the same order each time.

    other: called with everything else that is not hidden, folders included. loop: as in `walk`. odd: called
    with what has an image's name and is no regular file; where None, that raises as `existing` does."""
    for entry in walk(folder, loop):
        if is_folder(entry) or not is_image(entry.name):
            if other is not None:
                other(entry)
        elif is_regular(entry):
            yield Path(entry.path)
        elif odd is not None:
            odd(entry)
        else:
            existing(entry.path, "image")


def walk(folder: Path, loop: Callable[[Entry], None] | None = None) -> Iterator[Entry]:
    """All that is in and under a folder and not hidden, a folder before its content, in order of the names.

    loop: called with links to folders, which are not followed: to one around them, which would never end, or
    to one that another link led to, since such links can double what is read with each of them."""
    linked: set[str] = set()
    stack = [(os.path.realpath(folder), iter(entries(folder)))]
    while stack:
        entry = next(stack[-1][1], None)
        if entry is None:
            stack.pop()
            continue
        if not is_folder(entry):
            yield entry
            continue
        real = os.path.join(stack[-1][0], entry.name)
        if entry.is_symlink():
            real = os.path.realpath(entry.path)
            if real in linked or any(_within(around, real) for around, _ in stack):
                if loop is not None:
                    loop(entry)
                continue
            linked.add(real)
        yield entry
        stack.append((real, iter(entries(Path(entry.path)))))


def _within(path: str, folder: str) -> bool:
    return os.path.commonpath([path, folder]) == folder


def is_image(name: str) -> bool:
    """By its name."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def is_heic(name: str) -> bool:
    """By its name."""
    return os.path.splitext(name)[1].lower() in HEIC_SUFFIXES


def is_split_name(name: str) -> bool:
    """Whether it is the name of a part of a data set, as `train2017`, `valid`, `test-dev` are."""
    return _SPLIT.fullmatch(name) is not None


def split_role(name: str) -> str | None:
    """What a part of that name is for, `train`, `val` or `test`; None where it is no name of a part."""
    if (found := _SPLIT.fullmatch(name)) is None:
        return None
    word = found[1].lower()
    return next((role for role in ("train", "test") if word.startswith(role)), "val")


def is_folder(entry: Entry) -> bool:
    """Of links, what they lead to; a link that leads nowhere is no folder."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def is_regular(entry: Entry) -> bool:
    """As `is_folder`, of files."""
    try:
        return entry.is_file()
    except OSError:
        return False


def entries(folder: Path) -> list[Entry]:
    """All but hidden ones, by name. folder: on the disk, or in a zip archive."""
    if (at := zipped.place(folder)) is not None:
        found: list[Entry] = list(zipped.entries(at))
    else:
        with os.scandir(folder) as opened:
            found = list(opened)
    shown = (entry for entry in found if entry.name[0] != "." and entry.name not in _HIDDEN)
    return sorted(shown, key=lambda entry: entry.name)
