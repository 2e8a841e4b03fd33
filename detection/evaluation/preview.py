"""The first training images as the detector sees them, with their boxes, on one sheet.

A look at it finds what no figure tells: boxes beside their objects, classes mixed up, images too small.
"""

import io
import logging
import math
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch.loggers import Logger
from PIL import Image

from backbones.files import write_atomically
from detection.data.images import DetectionImages
from detection.evaluation.draw import draw_boxes
from detection.evaluation.examples import PREVIEW
from runtime.tracking import log_images

log = logging.getLogger(__name__)

IMAGES = 8
"""On the sheet, or as many as one batch has where these are more, up to MOST."""
MOST = 16
SIDE = 480
"""Pixels of the longer side of an image on the sheet, at most."""
GAP = 6


def sheet(images: DetectionImages, samples: Sequence[tuple[int, int]]) -> Image.Image:
    """The samples in a grid, read by row. samples: epoch and index of each, at least one.

    Raises FileNotFoundError or ValueError for an image that cannot be read."""
    tiles = [_tile(images, sample) for sample in samples]
    columns = math.ceil(math.sqrt(len(tiles)))
    rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    heights = [max(tile.height for tile in row) + GAP for row in rows]
    widths = [max(tile.width for tile in tiles[column::columns]) + GAP for column in range(columns)]
    drawn = Image.new("RGB", (sum(widths) - GAP, sum(heights) - GAP), "white")
    for number, row in enumerate(rows):
        for column, tile in enumerate(row):
            drawn.paste(tile, (sum(widths[:column]), sum(heights[:number])))
    return drawn


def _tile(images: DetectionImages, sample: tuple[int, int]) -> Image.Image:
    seen = images[sample]
    picture = Image.fromarray(seen["image"].permute(1, 2, 0).numpy())
    scale = min(1.0, SIDE / max(picture.size))
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    boxes, labels = (seen["target"]["boxes"] * scale).tolist(), seen["target"]["labels"].tolist()
    names = [images.coco.category_names[label] for label in labels]
    return draw_boxes(picture.resize(size, Image.Resampling.BILINEAR), boxes, labels, names)


def write_sheet(path: Path, drawn: Image.Image) -> None:
    data = io.BytesIO()
    drawn.save(data, "jpeg", quality=85)
    write_atomically(path, data.getvalue())


def write_preview(
    folder: Path, images: DetectionImages, order: Sequence[int], batch_size: int, loggers: Sequence[Logger]
) -> None:
    """Writes the sheet of a run's first images to its folder, unless it is there, and hands it to wandb.

    order: of the indices in the first epoch. Raises as `sheet` does."""
    path = folder / PREVIEW
    if path.exists():
        return
    count = min(max(IMAGES, batch_size), MOST)
    drawn = sheet(images, [(0, int(index)) for index in order[:count]])
    write_sheet(path, drawn)
    log.info("%s: the first images as training sees them, with their boxes", path)
    log_images(loggers, "train/preview", [(drawn, "the first training images, as the detector sees them")])
