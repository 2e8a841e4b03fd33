"""Writes a detector for another runtime, once the file finds in pictures what the detector finds."""

import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from backbones.export import replace_files
from backbones.formats import check_export
from backbones.int8 import spread
from backbones.runtimes import open_program
from backbones.words import counted, printable
from detection.data.annotations import CocoAnnotations, read_coco
from detection.data.image_check import damaged_images
from detection.deployment import FORMATS
from detection.deployment.comparison import LEAST_AGREEMENT, Comparison, compare
from detection.deployment.int8 import Cost, check_int8, write_int8
from detection.deployment.program import TorchProgram, described, exportable, traced, write
from detection.deployment.runner import Runner
from detection.detector import Detector, check_categories
from runtime.named_images import find_images
from runtime.pictures import decode
from runtime.problems import SHOWN
from runtime.progress import track

log = logging.getLogger(__name__)

T = TypeVar("T")

COMPARED = 16
"""Pictures of the user's that file and detector are compared on."""
PATTERNS = ((480, 640), (640, 480), (360, 720))
"""Height and width of the pictures that they are compared on where there are no others."""


@dataclass(frozen=True)
class Report:
    """What an export found out. pictures: what was compared, in words. cost: of int8."""

    pictures: str
    comparison: Comparison
    cost: Cost | None = None


@dataclass(frozen=True)
class Pictures:
    """Of the user, all of which can be decoded. compared: those that file and detector are compared on.

    told: the same in words, with what was left out. coco: their annotations."""

    paths: Sequence[Path]
    compared: Sequence[Path]
    told: str
    coco: CocoAnnotations | None = None

    @classmethod
    def open(cls, folder: Path, annotations: Path | None, detector: Detector, int8: bool) -> "Pictures":
        """Looks at COMPARED pictures of the folder, for int8 at all of them. Damaged ones are left out, but
        not of annotated ones, whose AP would be another.

        Raises FileNotFoundError or ValueError that names what is wrong with them."""
        if annotations is None:
            coco = None
            paths, unread = find_images([str(folder)])
            if unread:
                raise ValueError(unread[0].reason)
        else:
            coco = _annotated(annotations, folder, detector)
            paths = [folder / name for name in coco.file_names.tolist()]
        looked_at = paths if int8 else spread(paths, COMPARED)
        damaged = damaged_images(Path(), [str(path) for path in looked_at])
        whole = [path for path in looked_at if str(path) not in damaged]
        reasons = [f"{Path(name).name}: {reason}" for name, reason in damaged.items()]
        if damaged and (coco is not None or not whole):
            count = f"{len(damaged)} of {counted(len(looked_at), 'picture')}"
            raise ValueError(f"{folder}: {count} cannot be decoded, such as {reasons[0]}")
        compared = spread(whole, COMPARED)
        told = f"{len(compared)} of {counted(len(paths), 'picture')} in {folder}"
        if damaged:
            more = [f"and {len(reasons) - SHOWN} more"] if len(reasons) > SHOWN else []
            told += f" (left out: {printable(', '.join([*reasons[:SHOWN], *more]))})"
        return cls(whole, compared, told, coco)


def _annotated(annotations: Path, folder: Path, detector: Detector) -> CocoAnnotations:
    coco, problems = read_coco(annotations, folder)
    check_categories(coco, detector.categories)
    for problem in problems:
        log.warning("%s", problem)
    if not len(coco):
        raise ValueError(f"{annotations}: it has no images to compare on")
    return coco


def export(
    detector: Detector,
    path: str | os.PathLike[str],
    format: str,
    *,
    weights: str = "",
    images: Path | None = None,
    annotations: Path | None = None,
    int8: bool = False,
) -> Report:
    """Writes the detector, which stays as it is, atomically.

    path: ends in .onnx, .xml (OpenVINO, with its weights beside it in .bin) or .pt2, as `format` asks; before
    `torch.export.load` import torchvision. weights: SHA-256 of the detector's own file. images: folder of
    pictures that file and detector are compared on; None: coloured patterns. annotations: of these pictures,
    in COCO's format. int8: quantises the file, calibrated on the pictures; OpenVINO only.

    Raises ValueError that names what was wrong, also where the file would find something else, and
    ModuleNotFoundError with the command that installs what is missing. Then nothing is written or removed."""
    path = Path(path)
    check_export(path, format, FORMATS)
    exportable(detector)
    if int8:
        check_int8(format, images)
    elif annotations is not None:
        raise ValueError(f"annotations = {annotations}: they tell what int8 costs, so give --int8, too")
    pictures = None if images is None else Pictures.open(images, annotations, detector, int8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        written = Path(folder) / "float32" / path.name
        written.parent.mkdir()
        write(traced(detector), written, format, described(detector, weights))
        runner = _opened(written, format)
        if pictures is None:
            what = counted(len(PATTERNS), "coloured pattern")
            compared = [pattern(*size) for size in PATTERNS]
            comparison = compare(detector, runner, _tracked(compared))
        else:
            what = pictures.told
            comparison = compare(detector, runner, map(_pixels, _tracked(pictures.compared)))
        if comparison.agreement < LEAST_AGREEMENT:
            raise ValueError(
                f"{path} was not written: on {what}, {comparison.alone} of {comparison.found} detections are "
                f"the file's or the detector's alone, expected at most {1 - LEAST_AGREEMENT:.0%}"
            )
        if not comparison.found:
            log.warning(
                "The detector finds nothing on %s: the file is only known to find nothing either", what
            )
        cost = None
        if int8 and pictures is not None:
            written, cost = write_int8(written, runner, pictures.paths, pictures.coco)
        replace_files(written.parent, path)
    return Report(what, comparison, cost)


def _tracked(pictures: Sequence[T]) -> Iterator[T]:
    """The same, counted on the screen when the next is asked for."""
    with track(len(pictures), "export: comparing", images_per_unit=1) as progress:
        for picture in pictures:
            yield picture
            progress.advance()


def _pixels(path: Path) -> NDArray[np.uint8]:
    return np.asarray(decode(path))


def _opened(path: Path, format: str) -> Runner:
    return Runner.of(TorchProgram(path) if format == "torch" else open_program(path), path)


def pattern(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """`[height, width, 3]`: coloured patches of many sizes, on which most detectors find something."""
    draws = np.random.default_rng(seed)
    image = np.zeros((height, width, 3))
    for cells in (2, 5, 12, 30):
        patches = Image.fromarray(draws.integers(0, 256, (cells, cells, 3), np.uint8))
        image += np.asarray(patches.resize((width, height), Image.Resampling.NEAREST))
    return (image / 4).astype(np.uint8)
