"""Finds objects in image files.

python -m detection.predict detector.safetensors IMAGES… --output DIR
python -m detection.predict detector.safetensors IMAGES… --json | jq …
"""

import argparse
import contextlib
import io
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from backbones.files import write_atomically
from classification.data import decode
from classification.image_files import find_images
from detection.detector import Detection, Detector
from detection.draw import draw_detection
from detection.results_file import Result, to_results
from runtime.progress import track

SHOW_PROGRESS_FROM = 10
"""Images from which a person wants to know how many are left."""


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
            detection = _above(detector([picture])[0], min_score)
        except (ValueError, OSError) as error:
            yield Found(path, [], str(error))
            continue
        if output is not None:
            png = io.BytesIO()
            draw_detection(picture, detection).save(png, "png")
            # Numbered, since images of two folders may share a name.
            write_atomically(output / f"{number:0{width}d}_{path.stem}.png", png.getvalue())
        pairs = zip(to_results(number, detection, category_ids), detection["names"], strict=True)
        yield Found(path, [_named(result, path, name) for result, name in pairs])


def _above(detection: Detection, min_score: float) -> Detection:
    good = detection["scores"] >= min_score
    return {
        "boxes": detection["boxes"][good],
        "scores": detection["scores"][good],
        "labels": detection["labels"][good],
        "names": [name for name, keep in zip(detection["names"], good.tolist(), strict=True) if keep],
    }


def _named(result: Result, path: Path, category: str) -> NamedResult:
    return NamedResult(**msgspec.structs.asdict(result), file_name=_shown(path), category=category)


def _shown(path: Path) -> str:
    """As far as it is UTF-8: JSON has no other names, nor have most terminals."""
    return os.fsencode(path).decode("utf-8", "replace")


def _row(found: Found) -> tuple[str, ...]:
    names = [result.category for result in found.results]
    counts = ", ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names))
    best = f"{found.results[0].score:.2f}" if names else ""
    return escape(_shown(found.path)), str(len(names)), best, escape(counts)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m detection.predict",
        description="Find objects in image files. Exit code 1 where one of them cannot be read.",
        epilog="detections.json and --json hold COCO's results format, a list of detections, with file_name "
        "and category besides; image ids count the images from 1.",
    )
    parser.add_argument("weights", help="a detector.safetensors")
    parser.add_argument("images", nargs="+", help="image files, folders or patterns of them")
    parser.add_argument("--output", type=Path, help="folder for drawings and detections.json")
    parser.add_argument("--json", action="store_true", help="print the detections as JSON and nothing else")
    parser.add_argument("--min-score", type=float, default=0.3, help="leave out those below (default 0.3)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.output is None and not options.json:
        parser.error("give --output DIR, or --json, or both")
    table = Table("image", "objects", "best", "found")
    results: list[NamedResult] = []
    unreadable = 0
    try:
        paths = find_images(options.images)
        detector = Detector.load(options.weights, options.device)
        with contextlib.ExitStack() as stack:
            progress = None
            if len(paths) >= SHOW_PROGRESS_FROM:
                progress = stack.enter_context(track(len(paths), "predicting", images_per_unit=1))
            for found in predict(detector, paths, options.output, options.min_score):
                if found.error is None:
                    results += found.results
                    table.add_row(*_row(found))
                else:
                    unreadable += 1
                    print(found.error, file=sys.stderr)
                if progress is not None:
                    progress.advance()
        content = msgspec.json.format(msgspec.json.encode(results))
        if options.output is not None:
            write_atomically(options.output / "detections.json", content)
    except (ValueError, OSError, ImportError) as error:
        print(error, file=sys.stderr)
        return 1
    if options.json:
        print(content.decode())
    else:
        Console().print(table)
        print(options.output / "detections.json")
    return 1 if unreadable else 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    sys.exit(main())
