"""The embedded data set: scenes of real handwritten digits, written as an ordinary COCO folder.

Training scenes hold training digits, validation scenes held-out ones. Digits lie at many sizes, some
over others, on a textured ground; category ids have gaps, some scenes are empty, and one validation
scene holds a crowd region: a cluster of small digits annotated as one.
"""

import hashlib
import io
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from backbones.files import expanded, read_json, write_json
from backbones.ranges import KEY, ConfigError
from classification.config import ImageDataConfig
from classification.data import ImageSet, open_images
from runtime.cache import cache_folder, write_folder

log = logging.getLogger(__name__)

CATEGORY_IDS = (1, 3, 4, 7, 13, 27, 44, 62, 85, 90)
"""Ids of the digits 0 to 9, with gaps as COCO's have."""
SHORTEST, LONGEST = 128, 192
"""Sides of a scene in pixels."""
SMALLEST_DIGIT, LARGEST_DIGIT = 24, 84
"""Height of a digit's 8x8 raster in the scene, pixels; the ink fills most of it."""
MOST_DIGITS = 6
LARGEST_OVERLAP = 0.25
"""Share of a digit's box that later digits may cover."""
INK = 96
"""Grey value, of 255, from which a pixel belongs to the digit."""
WRITTEN = "scenes.json"
"""Settings of the scenes in their folder, written last."""
WRITER = 1
"""Version of this file's drawing; part of the cache's name."""


def place(root: str | None, train: int, val: int, seed: int) -> tuple[Path, dict[str, int]]:
    """The folder of so many scenes, which may not be written yet, and their settings.

    root: None: a folder in the user's cache. seed: of the drawing."""
    settings = {"writer": WRITER, "seed": seed, "train": train, "val": val}
    digest = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]
    return cache_folder() / f"scenes-{digest}" if root is None else expanded(root), settings


def prepare(folder: Path, settings: dict[str, int]) -> Path:
    """Writes the scenes where they are not yet; returns their folder. The arguments: of `place`.

    Raises ValueError when the folder holds scenes of other settings."""
    if not (folder / WRITTEN).is_file():
        log.info("writing %d scenes of handwritten digits to %s", settings["train"] + settings["val"], folder)
        write_scenes(folder, settings)
    elif (found := read_json(folder / WRITTEN, "scenes")) != settings:
        raise ConfigError(
            f"{folder} holds scenes of {found}, asked for are {settings}: give another {KEY}root"
        )
    return folder


def write_scenes(root: Path, settings: dict[str, int]) -> None:
    """Writes both splits below `root`, which appears whole or not at all.

    settings: `train` and `val` (scenes), `seed`, `writer`. Raises ValueError when `root` is not empty."""
    if root.exists() and any(root.iterdir()):
        raise ConfigError(f"{KEY}root = {root} holds other files than scenes: give an empty or a new folder")

    def write(folder: Path) -> None:
        for split, source in (("train", "train"), ("val", "test")):
            digits = open_images(ImageDataConfig(name="digits"), source)
            _write_split(folder, split, digits, settings[split], settings["seed"])
        write_json(folder / WRITTEN, settings)

    write_folder(root, WRITTEN, write)


def _write_split(root: Path, split: str, digits: ImageSet, count: int, seed: int) -> None:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    (root / split).mkdir()
    crowd_scene = 2 if split == "val" else None
    for index in range(count):
        generator = np.random.Generator(np.random.PCG64([seed, ("train", "val").index(split), index]))
        scene = _Scene(generator, digits)
        if index == crowd_scene:
            scene.add_crowd()
        elif index % 12 != 3:  # every twelfth scene is empty
            for _ in range(generator.integers(1, MOST_DIGITS + 1)):
                scene.add_digit()
        image_id = 10 * (index + 1)
        name = f"{split}_{image_id:05d}.png"
        (root / split / name).write_bytes(scene.png())
        images.append({"id": image_id, "file_name": name, "width": scene.width, "height": scene.height})
        for box, digit, crowd in scene.objects:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": CATEGORY_IDS[digit],
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": int(crowd),
                    "segmentation": _mask(scene, box) if crowd else [],
                }
            )
    categories = [{"id": CATEGORY_IDS[digit], "name": name} for digit, name in enumerate(digits.classes)]
    write_json(
        root / "annotations" / f"{split}.json",
        {"images": images, "annotations": annotations, "categories": categories},
    )


def _mask(scene: "_Scene", box: list[int]) -> dict[str, list[int]]:
    """The box as COCO's uncompressed run lengths: columns first, starting with the ground."""
    left, top, width, height = box
    between = scene.height - height
    counts = [left * scene.height + top, *[height, between] * (width - 1), height]
    rest = scene.height * scene.width - sum(counts)
    return {"counts": [*counts, rest], "size": [scene.height, scene.width]}


def _covered(below: list[int], above: list[int]) -> float:
    """Share of the box `below` that the box `above` covers, 0..1."""
    width, height = (
        min(below[k] + below[k + 2], above[k] + above[k + 2]) - max(below[k], above[k]) for k in (0, 1)
    )
    return max(0, width) * max(0, height) / (below[2] * below[3])


class _Scene:
    """One picture while it is drawn. objects: box (x, y, width, height), digit, crowd."""

    def __init__(self, generator: np.random.Generator, digits: ImageSet):
        self.generator = generator
        self.digits = digits
        self.height, self.width = (int(side) for side in generator.integers(SHORTEST, LONGEST + 1, 2))
        self.pixels = _ground(generator, self.height, self.width)
        self.objects: list[tuple[list[int], int, bool]] = []

    def add_digit(self) -> None:
        """Draws a digit where it covers little of the earlier ones; leaves it out where there is no room."""
        generator = self.generator
        index = int(generator.integers(len(self.digits)))
        size = int(np.exp(generator.uniform(np.log(SMALLEST_DIGIT), np.log(LARGEST_DIGIT))))
        opacity, colour = self._ink(index, size)
        for _ in range(20):
            x = int(generator.integers(0, self.width - opacity.shape[1] + 1))
            y = int(generator.integers(0, self.height - opacity.shape[0] + 1))
            box = [x, y, opacity.shape[1], opacity.shape[0]]
            if all(_covered(other, box) <= LARGEST_OVERLAP for other, _, _ in self.objects):
                self._draw(opacity, colour, x, y)
                self.objects.append((box, int(self.digits.labels[index]), False))
                return

    def add_crowd(self) -> None:
        """Draws a heap of small digits of one kind, annotated as one region, and one digit beside it."""
        members = np.flatnonzero(self.digits.labels == 8)
        left, top, side = 8, 8, 72
        for _ in range(14):
            opacity, colour = self._ink(int(self.generator.choice(members)), 22)
            x = left + int(self.generator.integers(0, side - opacity.shape[1] + 1))
            y = top + int(self.generator.integers(0, side - opacity.shape[0] + 1))
            self._draw(opacity, colour, x, y)
        self.objects.append(([left, top, side, side], 8, True))
        self.add_digit()

    def _ink(self, index: int, size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Opacity of the digit in 0..1, cut to its ink, and its colour `[3]` in 0..255."""
        raster = self.digits.image(index).convert("L").resize((size, size), Image.Resampling.BICUBIC)
        grey = np.asarray(raster, dtype=np.float64)
        rows, columns = np.flatnonzero((grey >= INK).any(1)), np.flatnonzero((grey >= INK).any(0))
        cut = grey[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        # Light ink: the ground is dark, as the digits' own ground is in the classifier's images.
        return (cut / 160).clip(0, 1), self.generator.uniform(170, 255, 3)

    def _draw(self, opacity: NDArray[np.float64], colour: NDArray[np.float64], x: int, y: int) -> None:
        part = self.pixels[y : y + opacity.shape[0], x : x + opacity.shape[1]]
        part += opacity[..., None] * (colour - part)

    def png(self) -> bytes:
        """The picture with a little noise over everything."""
        noise = self.generator.normal(0, 4, self.pixels.shape)
        image = Image.fromarray((self.pixels + noise).round().clip(0, 255).astype(np.uint8))
        buffer = io.BytesIO()
        image.save(buffer, "png")
        return buffer.getvalue()


def _ground(generator: np.random.Generator, height: int, width: int) -> NDArray[np.float64]:
    """Dark ground `[H, W, 3]` of coarse and fine spots and strokes, so that edges alone tell nothing."""
    base = generator.uniform(15, 70, 3)
    ground = np.broadcast_to(base, (height, width, 3)).copy()
    for cells, strength in ((5, 28.0), (24, 14.0)):
        spots = generator.normal(0, strength, (cells, cells, 3)).clip(-2 * strength, 2 * strength)
        for channel in range(3):
            layer = Image.fromarray(spots[..., channel].astype(np.float32))
            ground[..., channel] += np.asarray(layer.resize((width, height), Image.Resampling.BICUBIC))
    ink = np.zeros((height, width), dtype=np.uint8)
    for _ in range(generator.integers(2, 6)):
        x, y = generator.integers(0, width), generator.integers(0, height)
        ink[y : y + generator.integers(2, 30), x : x + generator.integers(2, 30)] = generator.integers(20, 70)
    strokes = Image.fromarray(ink).filter(ImageFilter.GaussianBlur(1.5))
    return (ground + np.asarray(strokes, dtype=np.float64)[..., None]).clip(0, 150)
