"""Detection by an exported file, in ONNX Runtime or OpenVINO: no PyTorch is imported.

    detector = Runner.open("detector.onnx")
    found = detector(numpy.asarray(picture))  # an upright RGB picture, such as of runtime.pictures.decode

Letters: `H W` pixels, `R` detections.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from backbones.files import convert_json
from backbones.runtimes import Program, open_program, own_metadata
from detection.data.coco_file import CategoryEntry
from detection.data.sizing import SizeRecord

METADATA = ("categories", "preprocessing", "score_threshold", "detections_per_image", "weights")
"""Keys of what an exported file says of itself: `detection.deployment.program`."""
OUTPUTS = ("boxes", "scores", "labels", "valid")


Side = Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]


class Preprocessing(msgspec.Struct):
    """`preprocessing` in METADATA. Colours are the program's own affair, so those keys are not looked at."""

    size: SizeRecord
    multiple: Side
    least: Side


class Said(msgspec.Struct):
    """METADATA as values."""

    categories: list[CategoryEntry]
    preprocessing: Preprocessing
    score_threshold: float
    detections_per_image: int


class Found(TypedDict):
    """What is found in one picture, best score first.

    boxes: `[R, 4]` float32 xyxy in pixels of the picture. scores: `[R]` float32, 0..1. labels: `[R]` int64,
    place of the category among `Runner.categories`. names: of the categories."""

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    names: list[str]


@dataclass(frozen=True)
class Inputs:
    """A picture as the program takes it.

    image: `[1, 3, H, W]` float32, RGB in 0..1. size: `[2]` int64, (H, W) of the resized picture in it; beside
    it lies padding. stored: (H, W) of the picture as given."""

    image: NDArray[np.float32]
    size: NDArray[np.int64]
    stored: tuple[int, int]

    def named(self) -> dict[str, NDArray[Any]]:
        return {"image": self.image, "size": self.size}


class Runner:
    """An exported detector.

    program: runs it. categories: by label. size: the rule by which pictures are resized. multiple, least: of
    the sides of what the program takes, pixels. score_threshold: the program finds nothing below. most:
    detections in a picture."""

    def __init__(self, program: Program, said: Said) -> None:
        self.program = program
        self.categories = said.categories
        self.size = said.preprocessing.size.size
        self.multiple, self.least = said.preprocessing.multiple, said.preprocessing.least
        self.score_threshold, self.most = said.score_threshold, said.detections_per_image

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        runtime: str | None = None,
        threads: int | None = None,
        precision: str = "f32",
    ) -> "Runner":
        """path: an .onnx, or an .xml of OpenVINO with its .bin beside it. runtime: `onnx`, or `openvino`,
        which reads both; None: the file's own. threads, precision: see `backbones.runtimes.open_program`.

        Raises FileNotFoundError or ValueError that names the file, and ModuleNotFoundError with the command
        that installs the runtime."""
        return cls.of(open_program(path, runtime, threads, precision), path)

    @classmethod
    def of(cls, program: Program, path: str | os.PathLike[str]) -> "Runner":
        """path: of the program, for the message. Raises ValueError for one that is no detector of ours."""
        said = own_metadata(path, program.metadata, METADATA)
        return cls(program, convert_json(said, Said, f"{path}: its metadata: "))

    def __call__(self, picture: NDArray[np.uint8], threshold: float = 0.0) -> Found:
        """Finds objects in a picture `[H, W, 3]`, RGB. threshold: detections of a lower score are left out.

        Raises ValueError for another array."""
        inputs = self.prepare(picture)
        return self.placed(self.run(inputs), inputs, threshold)

    def prepare(self, picture: NDArray[np.uint8]) -> Inputs:
        """The picture resized and padded."""
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape:
            raise ValueError(
                f"an array {list(picture.shape)} of {picture.dtype}, expected a picture [H, W, 3] of uint8"
            )
        stored = picture.shape[0], picture.shape[1]
        height, width = self.size.place(stored).size
        resized = np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR))
        sides = (max(self.least, -(-side // self.multiple) * self.multiple) for side in (height, width))
        image = np.zeros((1, 3, *sides), np.float32)
        image[0, :, :height, :width] = resized.transpose(2, 0, 1)
        image /= 255
        return Inputs(image, np.array([height, width], np.int64), stored)

    def run(self, inputs: Inputs) -> dict[str, NDArray[Any]]:
        """The program's own answer, see `OUTPUTS`, in pixels of the resized picture: what a timing times."""
        return self.program.run(inputs.named())

    def placed(self, answer: Mapping[str, NDArray[Any]], inputs: Inputs, threshold: float = 0.0) -> Found:
        """An answer of `run` in pixels of the picture as given."""
        (height, width), (rows, columns) = inputs.stored, inputs.size.tolist()
        limits = np.array([width, height, width, height], np.float32)
        scale = np.array([width / columns, height / rows] * 2, np.float32)
        boxes = (answer["boxes"] * scale).clip(0, limits)
        real = answer["valid"].astype(bool) & (answer["scores"] >= threshold)
        real &= (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        labels = answer["labels"][real].astype(np.int64)
        names = [self.categories[label].name for label in labels.tolist()]
        return {"boxes": boxes[real], "scores": answer["scores"][real], "labels": labels, "names": names}
