"""Labelled images on their way from another format into COCO's, and what is wrong with their files."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SHOWN = 20
"""Faults that an error lists."""
DECIMALS = 4
"""Of coordinates in pixels; YOLO's six decimals of a share are thousandths of a pixel."""


@dataclass(frozen=True)
class LabelledObject:
    """bbox: x, y, width, height in pixels. crowd: left out of training and not counted in evaluation.

    polygon: x, y, x, y, … in pixels, where there is one."""

    category: str
    bbox: tuple[float, float, float, float]
    crowd: bool = False
    polygon: list[float] | None = None


@dataclass(frozen=True)
class LabelledImage:
    """file_name: below the images' folder. width, height: in pixels, upright."""

    file_name: str
    width: int
    height: int
    objects: list[LabelledObject]


@dataclass(frozen=True)
class LabelledImages:
    """What a data set of another format holds. categories: in the order in which they get their ids."""

    folder: Path
    categories: list[str]
    images: list[LabelledImage]

    def to_coco(self, description: str) -> dict[str, Any]:
        """The content of an annotation file; ids of all three kinds count from 1."""
        ids = {name: number for number, name in enumerate(self.categories, start=1)}
        annotations: list[dict[str, Any]] = []
        for image_id, image in enumerate(self.images, start=1):
            for thing in image.objects:
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image_id,
                        "category_id": ids[thing.category],
                        "bbox": list(thing.bbox),
                        "area": _area(thing),
                        "iscrowd": int(thing.crowd),
                        "segmentation": _segmentation(thing),
                    }
                )
        images = [
            {"id": number, "file_name": image.file_name, "width": image.width, "height": image.height}
            for number, image in enumerate(self.images, start=1)
        ]
        categories = [{"id": number, "name": name} for name, number in ids.items()]
        return {
            "info": {"description": description},
            "images": images,
            "annotations": annotations,
            "categories": categories,
        }


@dataclass
class Faults:
    """Collected, so that one run tells all that is to be mended. shown: `file:line: what is wrong`."""

    shown: list[str] = field(default_factory=list)

    def add(self, path: Path, message: str, line: int | None = None) -> None:
        self.shown.append(f"{path}{'' if line is None else f':{line}'}: {message}")

    def refuse(self) -> None:
        """Raises ValueError that lists the faults, where there are any."""
        if self.shown:
            more = len(self.shown) - SHOWN
            raise ValueError("\n".join([*self.shown[:SHOWN], *([f"and {more} more"] if more > 0 else [])]))


def cut(
    left: float, top: float, right: float, bottom: float, size: tuple[int, int]
) -> tuple[float, float, float, float]:
    """x, y, width, height of the part inside an image of `size` = (width, height) pixels."""
    left, right = (min(max(0.0, side), size[0]) for side in (left, right))
    top, bottom = (min(max(0.0, side), size[1]) for side in (top, bottom))
    x, y = round(left, DECIMALS), round(top, DECIMALS)
    return x, y, round(right - left, DECIMALS), round(bottom - top, DECIMALS)


def _segmentation(thing: LabelledObject) -> list[list[float]]:
    if thing.polygon is not None:
        return [thing.polygon]
    if not thing.crowd:
        return []
    x, y, width, height = thing.bbox
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


def _area(thing: LabelledObject) -> float:
    if thing.polygon is None:
        return round(thing.bbox[2] * thing.bbox[3], DECIMALS)
    xs, ys = thing.polygon[::2], thing.polygon[1::2]
    return round(abs(_shoelace(xs, ys)) / 2, DECIMALS)


def _shoelace(xs: Sequence[float], ys: Sequence[float]) -> float:
    return sum(xs[i - 1] * ys[i] - xs[i] * ys[i - 1] for i in range(len(xs)))
