"""Reads and decodes image files, in as many processes as are asked for, and finds those of the same bytes."""

import hashlib
import io
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import UnidentifiedImageError

from backbones.files import existing
from backbones.pictures import as_picture
from classification.class_folders import FilePlace
from runtime import zipped
from runtime.pictures import HEIC, UNREADABLE, HeicError, open_image

CHUNK = 64
"""Files per task of a worker."""
AHEAD = 4
"""Tasks per worker that are handed out before the first one is back; bounds what lies in memory."""


class Checked(NamedTuple):
    """A file that is in order has a digest (16 bytes) and a kind, such as `JPEG RGB`; else a problem."""

    digest: bytes | None = None
    kind: str = ""
    problem: str | None = None
    detail: str = ""


class check_files:
    """Iterates over (file, what was found), in the files' order; afterwards knows the duplicates.

    total: number of files. workers: processes; 0: this one.
    """

    def __init__(self, files: Iterable[FilePlace], total: int, workers: int) -> None:
        self._files, self._workers = files, workers
        self._digests = np.zeros((total, 2), np.uint64)
        self._whole = np.zeros(total, bool)

    def __iter__(self) -> Iterator[tuple[FilePlace, Checked]]:
        for place, (file, result) in enumerate(self._results()):
            # A file that came into the folders meanwhile has no place.
            if result.digest is not None and place < len(self._whole):
                self._digests[place] = np.frombuffer(result.digest, np.uint64)
                self._whole[place] = True
            yield file, result

    def _results(self) -> Iterator[tuple[FilePlace, Checked]]:
        if not self._workers:
            for file in self._files:
                yield file, check_file(file.path)
            return
        files = iter(self._files)
        pending: deque[tuple[list[FilePlace], Future[list[Checked]]]] = deque()
        with ProcessPoolExecutor(self._workers) as pool:
            try:
                while True:
                    while len(pending) < AHEAD * self._workers and (chunk := list(islice(files, CHUNK))):
                        pending.append((chunk, pool.submit(_check_chunk, [file.path for file in chunk])))
                    if not pending:
                        return
                    chunk, future = pending.popleft()
                    yield from zip(chunk, future.result(), strict=True)
            finally:
                pool.shutdown(cancel_futures=True)

    def duplicates(self, files: Iterable[FilePlace]) -> list[list[FilePlace]]:
        """Groups of files with the same bytes. files: the same ones once more, for their names."""
        places = np.flatnonzero(self._whole)
        _, group, counts = np.unique(self._digests[places], axis=0, return_inverse=True, return_counts=True)
        again = counts[group.reshape(-1)] > 1
        group_of = dict(zip(places[again].tolist(), group.reshape(-1)[again].tolist(), strict=True))
        groups: dict[int, list[FilePlace]] = {}
        if group_of:
            for place, file in enumerate(files):
                if place in group_of:
                    groups.setdefault(group_of[place], []).append(file)
        return list(groups.values())


def _check_chunk(paths: Sequence[Path]) -> list[Checked]:
    return [check_file(path) for path in paths]


def check_file(path: str | os.PathLike[str]) -> Checked:
    """Reads a file once and decodes it, JPEG at an eighth of its size, which takes all its data, too."""
    try:
        at = zipped.place(path)
        data = existing(path, "image").read_bytes() if at is None else zipped.read(at)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        return Checked(problem="unreadable file", detail=reason or str(error).removeprefix(f"{path}: "))
    if not data:
        return Checked(problem="empty file")
    try:
        with open_image(io.BytesIO(data)) as image:
            kind = f"{image.format} {image.mode}"
            image.draft(None, (max(1, image.width // 8), max(1, image.height // 8)))  # type: ignore[arg-type]
            as_picture(image)
    except HeicError:
        return Checked(problem=HEIC)
    except UnidentifiedImageError:
        return Checked(problem="file with an image's name that is no image")
    except UNREADABLE as error:
        return Checked(problem="truncated or damaged image", detail=str(error) or type(error).__name__)
    return Checked(hashlib.blake2b(data, digest_size=16).digest(), kind)
