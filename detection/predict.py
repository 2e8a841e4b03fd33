"""Finds objects in image files.

python -m detection.predict detector.safetensors IMAGES… --output DIR
"""

import argparse
import io
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from backbones.files import write_atomically
from classification.data import decode
from classification.image_files import find_images
from detection.detector import Detection, Detector
from detection.draw import draw_detection
from detection.evaluate import Result, to_results


class NamedResult(Result):
    """A detection in COCO's results format with the names that its ids stand for."""

    file_name: str
    category: str


def predict(
    detector: Detector, paths: Sequence[Path], output: Path, min_score: float = 0.3
) -> list[tuple[Path, Detection]]:
    """Writes a drawn copy of each image and `detections.json` to `output`.

    detections.json is COCO's results format, a list of `NamedResult`; image ids count the images from 1. An
    image without detections is not in it. min_score: detections below it are left out.
    Raises ValueError for a file that is no image, before anything is written."""
    if not 0 <= min_score <= 1:
        raise ValueError(f"min_score = {min_score}, must be in 0..1")
    for path in paths:
        decode(path)
    output.mkdir(parents=True, exist_ok=True)
    width = len(str(len(paths)))
    category_ids = [category.id for category in detector.categories]
    results: list[NamedResult] = []
    found: list[tuple[Path, Detection]] = []
    for number, path in enumerate(paths, start=1):
        picture = decode(path)
        detection = _above(detector([picture])[0], min_score)
        found.append((path, detection))
        png = io.BytesIO()
        draw_detection(picture, detection).save(png, "png")
        # Numbered, since images of two folders may share a name.
        write_atomically(output / f"{number:0{width}d}_{path.stem}.png", png.getvalue())
        results += [
            NamedResult(**msgspec.structs.asdict(result), file_name=str(path), category=name)
            for result, name in zip(
                to_results(number, detection, category_ids), detection["names"], strict=True
            )
        ]
    write_atomically(output / "detections.json", msgspec.json.format(msgspec.json.encode(results)))
    return found


def _above(detection: Detection, min_score: float) -> Detection:
    good = detection["scores"] >= min_score
    return {
        "boxes": detection["boxes"][good],
        "scores": detection["scores"][good],
        "labels": detection["labels"][good],
        "names": [name for name, keep in zip(detection["names"], good.tolist(), strict=True) if keep],
    }


def _print_table(found: Sequence[tuple[Path, Detection]]) -> None:
    table = Table("image", "objects", "best", "found")
    for path, detection in found:
        names = detection["names"]
        counts = ", ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names))
        best = f"{float(detection['scores'][0]):.2f}" if names else ""
        table.add_row(path.name, str(len(names)), best, counts)
    Console().print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m detection.predict", description=__doc__.split("\n")[0])
    parser.add_argument("weights", help="a detector.safetensors")
    parser.add_argument("images", nargs="+", help="image files, folders or patterns of them")
    parser.add_argument("--output", type=Path, required=True, help="folder for drawings and detections.json")
    parser.add_argument(
        "--min-score", type=float, default=0.3, help="leave out detections below (default 0.3)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    options = parser.parse_args(arguments)
    try:
        paths = find_images(options.images)
        found = predict(
            Detector.load(options.weights, options.device), paths, options.output, options.min_score
        )
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    _print_table(found)
    print(f"{options.output / 'detections.json'}")
    return 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    sys.exit(main())
