"""The chain: search, then classification, then detection, each from the file that the one before wrote."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import classification.train
import detection.train
import search.runner
from classification.data import ImageDataConfig, open_images
from classification.train import ClassificationConfig
from detection.train import DetectionConfig
from runtime.folder import RunFolder
from runtime.tracking import LoggerConfig
from search.runner import SearchConfig

log = logging.getLogger(__name__)


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
    group = config.logger.group or Path(config.run_dir).name
    logger = replace(config.logger, group=group)
    _check_data(config)
    stages = (
        ("search", search.runner.run, config.search),
        ("classification", classification.train.run, config.classification),
        ("detection", detection.train.run, config.detection),
    )
    result: dict[str, Any] = {}
    for name, run_stage, stage_config in stages:
        finished = RunFolder(Path(stage_config.run_dir)).finished() is not None
        log.info("%s: %s", name, f"finished in {stage_config.run_dir}" if finished else stage_config.run_dir)
        result = run_stage(replace(stage_config, logger=logger))
    from pipeline.report import write_report

    log.info("report: %s", write_report(Path(config.run_dir)))
    return result


def _check_data(config: PipelineConfig) -> None:
    """Opens every data set, so that a wrong path in the last stage is not found after the first."""
    for split in ("train", "test"):
        open_images(config.classification.data, split)
    for split in ("train", "val"):
        config.detection.data.open(split)
