"""Finds objects in image files.

python -m detection.predict detector.safetensors IMAGES… --output DIR
"""

import argparse
import logging
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from backbones.files import write_json
from classification.data import IMAGE_SUFFIXES, decode
from detection.detector import Detection, Detector
from detection.draw import draw_detection


def find_images(paths: Iterable[str]) -> list[Path]:
    """The files among `paths` and the images of the folders among them, in order.

    Raises FileNotFoundError for a path that does not exist, ValueError for a folder without images."""
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            images = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
            if not images:
                raise ValueError(f"{path}: no images in this folder")
            found += images
        elif path.is_file():
            found.append(path)
        else:
            raise FileNotFoundError(f"{path}: no such image or folder")
    return found


def predict(
    detector: Detector, paths: Sequence[Path], output: Path, min_score: float = 0.3
) -> list[tuple[Path, Detection]]:
    """Writes a drawn copy of each image and `predictions.json` to `output`.

    predictions.json has COCO's `images`, `categories` and `annotations`, each annotation with a `score`;
    image ids count from 1. min_score: detections below it are left out."""
    output.mkdir(parents=True, exist_ok=True)
    width = len(str(len(paths)))
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    found: list[tuple[Path, Detection]] = []
    for number, path in enumerate(paths, start=1):
        picture = decode(path)
        detection = _above(detector([picture])[0], min_score)
        found.append((path, detection))
        # Numbered, since images of two folders may share a name.
        draw_detection(picture, detection).save(output / f"{number:0{width}d}_{path.stem}.png")
        images.append(
            {"id": number, "file_name": str(path), "width": picture.width, "height": picture.height}
        )
        for box, score, label in zip(
            detection["boxes"].tolist(),
            detection["scores"].tolist(),
            detection["labels"].tolist(),
            strict=True,
        ):
            bbox = [round(value, 3) for value in (box[0], box[1], box[2] - box[0], box[3] - box[1])]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": detector.categories[label].id,
                    "bbox": bbox,
                    "area": round(bbox[2] * bbox[3], 3),
                    "iscrowd": 0,
                    "score": round(score, 6),
                }
            )
    categories = [{"id": category.id, "name": category.name} for category in detector.categories]
    content = {"images": images, "categories": categories, "annotations": annotations}
    write_json(output / "predictions.json", content)
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
    parser.add_argument("images", nargs="+", help="image files, or folders of them")
    parser.add_argument("--output", type=Path, required=True, help="folder for drawings and predictions.json")
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
    print(f"{options.output / 'predictions.json'}")
    return 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    sys.exit(main())
