"""Detections in image files."""

import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from backbones.files import write_atomically
from backbones.words import told
from detection.detector import Detector
from detection.evaluation.draw import draw_detection
from detection.evaluation.results_file import Result, to_results
from runtime.pictures import decode

LONGEST_STEM = 200
"""Bytes of a file's name that its drawing keeps."""


class NamedResult(Result):
    """A detection in COCO's results format with the names that its ids stand for."""

    file_name: str
    category: str


class Found(NamedTuple):
    """What is found in an image file, best first; error: why the file cannot be read, None where it can."""

    path: Path
    results: list[NamedResult]
    error: str | None = None


def predict(
    detector: Detector, paths: Sequence[Path], output: Path | None = None, min_score: float = 0.3
) -> Iterator[Found]:
    """Looks at one file after the other; image ids count them from 1.

    Boxes are in pixels of the upright picture: EXIF rotation is applied. output: folder for a drawn copy of
    each, a PNG. min_score: detections below it are left out. Raises ValueError unless it is in 0..1."""
    if not 0 <= min_score <= 1:
        raise ValueError(f"min_score = {min_score}, must be in 0..1")
    category_ids = [category.id for category in detector.categories]
    width = len(str(len(paths)))
    for number, path in enumerate(paths, start=1):
        try:
            picture = decode(path)
            detection = detector(picture, min_score)[0]
        except (ValueError, OSError) as error:
            yield Found(path, [], told(error))
            continue
        if output is not None:
            png = io.BytesIO()
            draw_detection(picture, detection).save(png, "png")
            # Numbered, since images of two folders may share a name; cut, since file systems take 255 bytes.
            stem = os.fsdecode(os.fsencode(path.stem)[:LONGEST_STEM])
            write_atomically(output / f"{number:0{width}d}_{stem}.png", png.getvalue())
        pairs = zip(to_results(number, detection, category_ids), detection["names"], strict=True)
        yield Found(path, [_named(result, path, name) for result, name in pairs])


def _named(result: Result, path: Path, category: str) -> NamedResult:
    return NamedResult(**msgspec.structs.asdict(result), file_name=str(path), category=category)
