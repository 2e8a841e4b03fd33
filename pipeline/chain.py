"""The chain: search, then classification, then detection, each from the file that the one before wrote."""

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

import classification.train
import detection.train
import search.runner
from classification.data import ImageDataConfig, open_images
from classification.train import ClassificationConfig
from detection.train import DetectionConfig
from pipeline.report import write_report
from pipeline.summary import summary
from runtime.folder import RunFolder
from runtime.tracking import LoggerConfig
from search.runner import SearchConfig

log = logging.getLogger(__name__)

STAGES: dict[str, Callable[[Any], dict[str, Any]]] = {
    "search": search.runner.run,
    "classification": classification.train.run,
    "detection": detection.train.run,
}


@dataclass(kw_only=True)
class PipelineConfig:
    """A whole chain. `data` serves search and classification, which refer to it."""

    run_dir: str
    """Folder of the chain; each stage has its own inside. Started again with it, the chain continues."""
    search: SearchConfig
    classification: ClassificationConfig
    detection: DetectionConfig
    data: ImageDataConfig
    logger: LoggerConfig
    seed: int = 0
    """Of every stage."""


def run(config: PipelineConfig) -> dict[str, Any]:
    """Runs what is not finished and writes `report.html`; returns what detection's `metrics.json` holds.

    Raises ValueError or FileNotFoundError before the search when the data of any stage is not usable.
    """
    finished = {
        name for name in STAGES if RunFolder(Path(getattr(config, name).run_dir)).finished() is not None
    }
    _check_data(config, finished)
    # Each stage judges by its own folder whether it is the same run.
    RunFolder.open(config.run_dir, config, stage="pipeline", may_change=("data", "seed", *STAGES))
    logger = replace(config.logger, group=config.logger.group or Path(config.run_dir).name)
    result: dict[str, Any] = {}
    for name, run_stage in STAGES.items():
        stage = getattr(config, name)
        log.info("%s: %s %s", name, "finished in" if name in finished else "in", stage.run_dir)
        result = run_stage(replace(stage, logger=logger))
    write_report(Path(config.run_dir))
    Console().print(summary(config.run_dir))
    return result


def _check_data(config: PipelineConfig, finished: Collection[str]) -> None:
    """Opens every data set still needed, so that a wrong path in the last stage is found before the first."""
    if "classification" not in finished:
        for split in ("train", "test"):
            open_images(config.classification.data, split)
    if "detection" not in finished:
        for split in ("train", "val"):
            config.detection.data.open(split)
