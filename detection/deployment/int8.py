"""A detector in int8, and what that costs."""

import importlib.util
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from backbones.int8 import quantised, spread
from backbones.runtimes import open_program, openvino_core, save_openvino
from backbones.words import counted
from celltransfer import not_installed
from detection.data.annotations import CocoAnnotations
from detection.deployment.runner import Found, Runner
from detection.evaluation.results_file import Result, to_results
from detection.evaluation.scoring import evaluate
from runtime.pictures import decode
from runtime.progress import track

log = logging.getLogger(__name__)

CONFIDENT = 0.5
"""Score from which a detection of the float32 file should be found in int8, too, …"""
OVERLAP = 0.5
"""… by a box of the same label that overlaps it so much."""


@dataclass(frozen=True)
class Cost:
    """calibrated: on so many pictures. ap: before and after, in 0..1, `AP` and that of each class, where
    there are annotations. kept: elsewhere, how many confident detections there are in float32, and how many
    of them are found again."""

    calibrated: int
    ap: dict[str, tuple[float | None, float | None]]
    kept: tuple[int, int] | None


def check_int8(format: str, images: Path | None) -> None:
    """Raises ValueError or ModuleNotFoundError that says what int8 needs."""
    if format != "openvino":
        raise ValueError(f"format = {format!r}, but int8 is written for openvino")
    if images is None:
        raise ValueError(
            "int8 is calibrated on pictures like those it is for: give their folder, --images DIR"
        )
    if importlib.util.find_spec("nncf") is None:
        raise not_installed("int8", "nncf", "deploy")


def write_int8(
    path: Path, runner: Runner, paths: Sequence[Path], coco: CocoAnnotations | None
) -> tuple[Path, Cost]:
    """Quantises the OpenVINO file at `path`, which `runner` runs, into a folder of its own; returns the file.

    paths: of the pictures, of which some hundred calibrate. coco: their annotations."""
    examples = spread(paths)
    log.info("export: quantising, calibrated on %s", counted(len(examples), "picture"))

    def inputs(picture: Path) -> dict[str, Any]:
        return runner.prepare(np.asarray(decode(picture))).named()

    model = quantised(openvino_core().read_model(path), examples, inputs)
    written = path.parent.with_name("int8") / path.name
    written.parent.mkdir()
    save_openvino(model, written, runner.program.metadata)
    small = Runner.of(open_program(written), written)
    return written, Cost(len(examples), *_cost(runner, small, paths, coco))


def _cost(
    before: Runner, after: Runner, paths: Sequence[Path], coco: CocoAnnotations | None
) -> tuple[dict[str, Any], tuple[int, int] | None]:
    results: tuple[list[Result], list[Result]] = ([], [])
    confident = kept = 0
    with track(len(paths), "comparing int8 with float32", images_per_unit=1) as progress:
        for number, path in enumerate(paths):
            picture = np.asarray(decode(path))
            found = before(picture), after(picture)
            if coco is None:
                high = found[0]["scores"] >= CONFIDENT
                confident += int(high.sum())
                kept += int((_again(*found) & high).sum())
            else:
                for own, one in zip(results, found, strict=True):
                    own += to_results(int(coco.image_ids[number]), _tensors(one), coco.category_ids)
            progress.advance()
    if coco is None or not coco.annotated:
        return {}, (confident, kept)
    scores = [evaluate(coco, own) for own in results]
    ap = {"AP": tuple(one.metrics.get("AP") for one in scores)}
    ap |= {name: tuple(one.per_class[name]["AP"] for one in scores) for name in scores[0].per_class}
    return ap, None


def _tensors(found: Found) -> Any:
    return {key: torch.from_numpy(np.ascontiguousarray(found[key])) for key in ("boxes", "scores", "labels")}


def _again(found: Found, other: Found) -> np.ndarray:
    """Mask `[R]` of what is found by the other, too."""
    from torchvision.ops import box_iou

    overlap = box_iou(torch.from_numpy(found["boxes"]), torch.from_numpy(other["boxes"])).numpy()
    return ((overlap >= OVERLAP) & (found["labels"][:, None] == other["labels"])).any(axis=1)
