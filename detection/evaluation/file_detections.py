"""Detections in files of pictures and in videos, by a detector or by what was exported of it."""

import contextlib
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np
from PIL import Image

from backbones.files import write_atomically
from backbones.words import told
from detection.data.coco_file import CategoryEntry
from detection.evaluation.draw import draw_detection
from detection.evaluation.results_file import Result, to_results
from runtime import video
from runtime.pictures import decode

LONGEST_STEM = 200
"""Bytes of a file's name that its drawing keeps."""

Detection = Mapping[str, Any]
"""Boxes, scores, labels and names: a `detection.detector.Detection`, or arrays of the same keys."""
Find = Callable[[Image.Image], Detection]


class Finder(Protocol):
    """A `Detector`, or a `detection.deployment.runner.Runner` of what was exported, which is above this."""

    categories: list[CategoryEntry]

    def __call__(self, picture: Any, /, threshold: float) -> Detection | Sequence[Detection]:
        """What is found in an array `[H, W, 3]`: a `Detection`, or a list of one."""


class NamedResult(Result):
    """A detection in COCO's results format with the names that its ids stand for.

    frame: of a video, from 1; not there in a picture."""

    file_name: str
    category: str
    frame: int | msgspec.UnsetType = msgspec.UNSET


class Found(NamedTuple):
    """What is found in a picture, best first. place: of the file among those given, from 1. error: why the
    file cannot be read, or not further; None where it can. frame: of a video, from 1. drawing: the file with
    the boxes, where there is one."""

    path: Path
    results: list[NamedResult]
    error: str | None = None
    place: int = 1
    frame: int | None = None
    drawing: Path | None = None


def predict(
    detector: Finder, paths: Sequence[Path], output: Path | None = None, min_score: float = 0.3
) -> Iterator[Found]:
    """Looks at one file after the other, at each frame of a video; image ids count both from 1.

    Boxes are in pixels of the upright picture: EXIF rotation is applied. output: folder for a drawn copy of
    each, a PNG, or of a video an MP4. min_score: detections below it are left out. Raises ValueError unless
    it is in 0..1."""
    if not 0 <= min_score <= 1:
        raise ValueError(f"min_score = {min_score}, must be in 0..1")
    find = _finder(detector, min_score)
    category_ids = [category.id for category in detector.categories]
    width = len(str(len(paths)))
    image_id = 0
    for place, path in enumerate(paths, start=1):
        # Numbered, since images of two folders may share a name; cut, since file systems take 255 bytes.
        stem = os.fsdecode(os.fsencode(path.stem)[:LONGEST_STEM])
        drawing = None if output is None else output / f"{place:0{width}d}_{stem}"
        looks = _video if video.is_video(path) else _picture
        for found in looks(find, path, drawing):
            image_id += 1
            results: list[NamedResult] = []
            if found.detection is not None:
                frame = msgspec.UNSET if found.frame is None else found.frame
                pairs = zip(
                    to_results(image_id, found.detection, category_ids), found.detection["names"], strict=True
                )
                results = [_named(result, path, name, frame) for result, name in pairs]
            yield Found(path, results, found.error, place, found.frame, found.drawing)


class _Look(NamedTuple):
    detection: Detection | None
    frame: int | None = None
    error: str | None = None
    drawing: Path | None = None


def _finder(detector: Finder, min_score: float) -> Find:
    def find(picture: Image.Image) -> Detection:
        found = detector(np.asarray(picture), min_score)
        return found if isinstance(found, Mapping) else found[0]

    return find


def _picture(find: Find, path: Path, drawing: Path | None) -> Iterator[_Look]:
    try:
        picture = decode(path)
        detection = find(picture)
    except (ValueError, OSError) as error:
        yield _Look(None, error=told(error))
        return
    if drawing is not None:
        png = io.BytesIO()
        draw_detection(picture, detection).save(png, "png")
        drawing = drawing.with_name(f"{drawing.name}.png")
        write_atomically(drawing, png.getvalue())
    yield _Look(detection, drawing=drawing)


def _video(find: Find, path: Path, drawing: Path | None) -> Iterator[_Look]:
    """What was found and drawn before a fault in the file stays."""
    fault = None
    with contextlib.ExitStack() as stack:
        try:
            rate = video.header(path).rate
            writer = None
            if drawing is not None:
                drawing = drawing.with_name(f"{drawing.name}.mp4")
                writer = stack.enter_context(video.VideoWriter(drawing, rate))
            for frame, picture in enumerate(video.frames(path), start=1):
                detection = find(picture)
                if writer is not None:
                    writer.write(draw_detection(picture, detection))
                yield _Look(detection, frame, drawing=drawing)
        except (ValueError, OSError) as error:
            fault = told(error)
    if fault is not None:
        yield _Look(None, error=fault)


def _named(result: Result, path: Path, category: str, frame: int | msgspec.UnsetType) -> NamedResult:
    return NamedResult(**msgspec.structs.asdict(result), file_name=str(path), category=category, frame=frame)
