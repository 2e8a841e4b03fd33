"""Where a classifier errs: which classes it takes for which, and the images that it is most wrong about.

`mistakes.json` in a run's folder holds both, with small copies of the images, so that a report needs no data.
Letters: N images, K classes.
"""

import base64
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from PIL import Image

from backbones.files import decode_json, write_atomically
from classification.data import ImageSet
from runtime.pictures import open_image

if TYPE_CHECKING:
    from classification.predictions import Predictions

FILE = "mistakes.json"
WORST = 24
"""Images kept."""
THUMBNAIL = 160
"""Pixels of a kept image's longer side."""
LOSSLESS = 64
"""Longer side up to which a picture is a PNG, which is small then and shows every pixel."""
MATRIX_CLASSES = 32
"""K up to which a confusion matrix can be read as a picture."""
PAIRS = 100
"""Pairs of confused classes that a tracker gets where there are more classes."""


class WorstImage(msgspec.Struct):
    """An image with a high loss. label, predicted: true and most probable class, in 0..K-1.

    image: its file under the split's folder, or `image <place in the set>`. probability: of the predicted
    class; probability_of_label: of the true one. data_uri: a small copy.
    """

    image: str
    label: int
    predicted: int
    probability: float
    probability_of_label: float
    loss: float
    data_uri: str


class Mistakes(msgspec.Struct):
    """Of one network on one set.

    confusion: `(true class, predicted class, images)` wherever there are any, right ones included, in
    ascending order. worst: highest loss first.
    """

    source: str
    classes: list[str]
    confusion: list[tuple[int, int, int]]
    worst: list[WorstImage]

    def matrix(self) -> list[list[int]]:
        """`[K][K]` images by true, then by predicted class."""
        counts = [[0] * len(self.classes) for _ in self.classes]
        for label, predicted, images in self.confusion:
            counts[label][predicted] = images
        return counts

    def pairs(self, count: int) -> list[tuple[int, int, int, float]]:
        """Most confused classes: `(true, predicted, images, share of the true class's images)`."""
        totals = np.zeros(len(self.classes), np.int64)
        for label, _, images in self.confusion:
            totals[label] += images
        wrong = [entry for entry in self.confusion if entry[0] != entry[1]]
        found = [(label, other, n, n / int(totals[label])) for label, other, n in wrong]
        return sorted(found, key=lambda pair: (-pair[2], -pair[3], pair[:2]))[:count]


def find_mistakes(predictions: "Predictions", images: ImageSet) -> Mistakes:
    """predictions: of these images, in their order. Reads the worst of them again."""
    size = len(images.classes)
    keys, counts = np.unique(predictions.labels * size + predictions.predicted, return_counts=True)
    confusion = [(key // size, key % size, n) for key, n in zip(keys.tolist(), counts.tolist(), strict=True)]
    worst = np.argsort(-predictions.loss, kind="stable")[:WORST].tolist()
    return Mistakes(
        images.source,
        images.classes,
        confusion,
        [
            WorstImage(
                _name(images, i),
                int(predictions.labels[i]),
                int(predictions.predicted[i]),
                float(predictions.probability[i]),
                float(np.exp(-predictions.loss[i])),
                float(predictions.loss[i]),
                data_uri(images.image(i), THUMBNAIL),
            )
            for i in worst
        ],
    )


def _name(images: ImageSet, index: int) -> str:
    image = images.images[index]
    return (
        os.path.relpath(os.fsdecode(image), images.source) if isinstance(image, bytes) else f"image {index}"
    )


def data_uri(image: Image.Image, longest: int) -> str:
    """A copy as a data URI, its longer side at most `longest` pixels: a PNG up to LOSSLESS, else a JPEG."""
    image = image.copy()
    image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    kind = "png" if max(image.size) <= LOSSLESS else "jpeg"
    image.save(buffer, kind, quality=80, optimize=True)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def picture(data_uri: str) -> Image.Image:
    """What `data_uri` was made of."""
    with open_image(io.BytesIO(base64.b64decode(data_uri.partition(",")[2]))) as image:
        image.load()
        return image


def write_mistakes(folder: Path, mistakes: Mistakes) -> None:
    """Writes `mistakes.json` into `folder`."""
    write_atomically(folder / FILE, msgspec.json.encode(mistakes))


def read_mistakes(path: str | os.PathLike[str]) -> Mistakes:
    """Raises FileNotFoundError, or ValueError that names the file and the key."""
    mistakes = decode_json(path, Mistakes, "mistakes")
    size = len(mistakes.classes)
    pairs = [entry[:2] for entry in mistakes.confusion] + [(w.label, w.predicted) for w in mistakes.worst]
    for pair in pairs:
        if not all(0 <= label < size for label in pair):
            raise ValueError(f"{path}: classes {pair[0]} and {pair[1]}, expected 0..{size - 1}")
    return mistakes
