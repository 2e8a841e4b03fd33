"""The files that detectors are deployed as, and the milliseconds that they take here."""

import logging
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import torch

from backbones.files import decode_json, write_json
from backbones.speed_table import heading, measure
from backbones.words import counted
from detection.data.images import open_split
from detection.deployment.export import export
from detection.detector import Detector
from detection.speed import model_of
from detection.train import WEIGHTS
from pipeline.machine.config import MachineConfig
from runtime.digests import digest

if TYPE_CHECKING:
    from search.latency.config import LatencyConfig

log = logging.getLogger(__name__)

FILE = "times.json"
ROUNDS, WARM_UP, PICTURES = 20, 3, 8
"""Of a measurement: rounds that count, rounds before them, validation images that are looked at in turn."""


class Times(msgspec.Struct):
    """protocol, processor: in a sentence each. milliseconds: of each round, by the digest of the file."""

    protocol: str
    processor: str
    milliseconds: dict[str, list[float]]


def exported(folder: Path, config: "LatencyConfig") -> Path:
    """The file of a trained detector that is timed, which is made where it is not there: for OpenVINO
    `detector.xml`, which was checked to find what the weights find; for PyTorch the weights."""
    weights = folder / "detection" / WEIGHTS
    if config.engine == "torch":
        return weights
    path = folder / "detector.xml"
    if not (path.exists() and path.with_suffix(".bin").exists()):
        log.info("exporting %s", path)
        export(Detector.load(weights, "cpu"), path, "openvino", weights=digest(weights))
    return path


def timed(folder: Path, files: Sequence[Path], config: MachineConfig) -> Times:
    """Times of all the files, taken in turns in one process; those of the folder where it has them all."""
    path, wanted = folder / FILE, [digest(file) for file in files]
    known = decode_json(path, Times, "times") if path.exists() else None
    if known is not None and set(wanted) <= known.milliseconds.keys():
        return known
    latency, images = config.search.latency, open_split(config.detection.data, "val")
    pictures = [images.read(i) for i in islice(range(len(images)), PICTURES)]
    log.info("timing %s", counted(len(files), "detector"))
    before = torch.get_num_threads()
    models = [model_of(str(file), latency.precision) for file in files]
    speeds = measure(models, pictures, latency.threads, WARM_UP, ROUNDS)
    torch.set_num_threads(before)
    protocol = (
        f"medians of {ROUNDS} interleaved rounds, {counted(len(pictures), 'validation image')} in turn, "
        f"{counted(latency.threads, 'thread')}, {latency.engine} {latency.precision}"
    )
    times = Times(protocol, heading(), dict(zip(wanted, (s.milliseconds for s in speeds), strict=True)))
    write_json(path, msgspec.to_builtins(times))
    return times
