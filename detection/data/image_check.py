"""The image files of a data set held against their annotations, by their headers or by decoding them."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from backbones.pictures import lies_on_its_side
from classification.file_check import check_file
from runtime.pictures import read
from runtime.progress import track

CHUNK = 256
"""Files per task of a worker."""
MOST_WORKERS = 8


class Fault(NamedTuple):
    """What is wrong with a file."""

    rule: str
    name: str
    level: str = "error"


def upright_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Width and height in pixels as `runtime.pictures.decode` gives the picture, EXIF's rotation applied.

    Reads the header only. Raises FileNotFoundError, or ValueError for a file that is no image or so large
    that Pillow refuses it (`Image.MAX_IMAGE_PIXELS` twice)."""
    return read(path, lambda image: image.size[::-1] if lies_on_its_side(image) else image.size)


def damaged_images(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """What is wrong with the files whose pixels cannot be decoded, by name. Reads all of them.

    Many are read by as many processes as there are cores, at most MOST_WORKERS."""
    workers = min(os.cpu_count() or 1, MOST_WORKERS) if len(names) > CHUNK else 0
    paths = [folder / name for name in names]
    found: dict[str, str] = {}
    with ExitStack() as stack:
        progress = stack.enter_context(track(len(names), "decode", images_per_unit=1))
        pool = stack.enter_context(ProcessPoolExecutor(workers)) if workers else None
        results = pool.map(check_file, paths, chunksize=CHUNK // 4) if pool else map(check_file, paths)
        for name, result in zip(names, results, strict=True):
            if result.problem is not None:
                found[name] = f"{result.problem}{result.detail and f' ({result.detail})'}"
            progress.advance()
    return found


def check_images(
    folder: Path,
    names: Sequence[str],
    sizes: Sequence[Sequence[int]],
    *,
    decode: bool,
    workers: int,
    unreadable: str = "error",
) -> Iterator[list[Fault]]:
    """What is wrong with each file, in order; a file that is in order has no fault.

    sizes: height and width in pixels, as annotated. decode: read all pixels, which finds what is cut off.
    workers: processes; 0: this one. unreadable: level of what cannot be decoded."""
    tasks = [
        (names[start : start + CHUNK], sizes[start : start + CHUNK]) for start in range(0, len(names), CHUNK)
    ]
    check = partial(_check_some, folder, decode, unreadable)
    if not workers:
        for task in tasks:
            yield from check(task)
        return
    with ProcessPoolExecutor(workers) as pool:
        try:
            for faults in pool.map(check, tasks):
                yield from faults
        finally:
            pool.shutdown(cancel_futures=True)


def _check_some(
    folder: Path, decode: bool, unreadable: str, task: tuple[Sequence[str], Sequence[Sequence[int]]]
) -> list[list[Fault]]:
    return [
        list(_check(folder / name, name, size, decode, unreadable)) for name, size in zip(*task, strict=True)
    ]


def _check(path: Path, name: str, annotated: Sequence[int], decode: bool, unreadable: str) -> Iterator[Fault]:
    try:
        width, height = upright_size(path)
    except (ValueError, FileNotFoundError) as error:
        reason = str(error).removeprefix(f"{path}: ")
        bomb = "decompression bomb" in reason
        rule = "image is too large to be decoded" if bomb else "file is no image"
        yield Fault(rule, f"{name}: {reason}", unreadable)
        return
    if (height, width) != tuple(annotated):
        turned = " (before its EXIF rotation?)" if (width, height) == tuple(annotated) else ""
        yield Fault(
            "image has another size than annotated",
            f"{name}: {width}x{height}, annotated {annotated[1]}x{annotated[0]}{turned}",
        )
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > limit:
        yield Fault(
            f"image has more than {limit / 1e6:.0f} million pixels", f"{name}: {width}x{height}", "warning"
        )
    if decode and (problem := check_file(path).problem) is not None:
        yield Fault(problem, name, unreadable)
