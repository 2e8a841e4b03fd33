"""The chain: search, then classification, then detection, each from the file that the one before wrote."""

import logging
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import classification.train
import detection.train
import search.run
from backbones.network import NASNet
from backbones.published import NASNET_A
from detection.training.build import open_images
from detection.training.recipe import AUTO
from pipeline.config import PipelineConfig
from pipeline.report import write_report
from pipeline.summary import summary
from runtime.device import resolve_device
from runtime.folder import RunFolder
from runtime.ranges import under
from runtime.trainer import check_machine

log = logging.getLogger(__name__)

STAGES: dict[str, Callable[[Any], dict[str, Any]]] = {
    "search": search.run.run,
    "classification": classification.train.run,
    "detection": detection.train.run,
}


def run(config: PipelineConfig) -> dict[str, Any]:
    """Runs what is not finished and writes `report.html`; returns what detection's `metrics.json` holds.

    Raises ValueError or FileNotFoundError before the search when a later stage could not run.
    """
    metrics = {name: Path(getattr(config, name).run_dir) / "metrics.json" for name in STAGES}
    check(config, unfinished=[name for name in STAGES if not metrics[name].exists()])
    # Each stage judges by its own folder whether it is the same run.
    RunFolder.open(config.run_dir, config, stage="pipeline", may_change=("data", "seed", *STAGES))
    logger = replace(config.logger, group=config.logger.group or Path(config.run_dir).name)
    result: dict[str, Any] = {}
    for name, run_stage in STAGES.items():
        stage = getattr(config, name)
        log.info("%s: %s", name, stage.run_dir)
        before = _written(metrics[name])
        with under(name):
            result = run_stage(replace(stage, logger=logger))
        log.info("%s: %s", name, "was finished before" if before == _written(metrics[name]) else "finished")
    write_report(config.run_dir)
    Console().print(summary(config.run_dir))
    return result


def _written(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.exists() else None


def check(config: PipelineConfig, unfinished: Collection[str]) -> None:
    """Builds what later stages need, as far as it can be built, to find their faults before the first begins.

    NASNet-A's cells stand in for those that the search will find.
    """
    if "search" in unfinished and config.search.evaluator is None:
        with under("search.child"):
            resolve_device(config.search.child.device)
    for name in ("classification", "detection"):
        with under(name):
            check_machine(getattr(config, name).trainer)
    if "classification" in unfinished:
        spec = config.classification.backbone.spec_of(NASNET_A)
        if spec.stem == "cifar":
            raise ValueError(
                "classification.backbone.stem = 'cifar', but detection needs the maps of 'imagenet'"
            )
        train, _ = classification.train.open_both(config.classification.data)
        with under("classification"):
            config.classification.plan().check(len(train))
        if "detection" in unfinished:
            with torch.device("meta"):
                config.detection.detector.build(NASNet(spec, 1), 1)
    if "detection" in unfinished:
        with under("detection"):
            scenes, *_ = open_images(config.detection.data, config.detection.seed, processes=1)
            if config.detection.recipe.batch_size != AUTO:
                config.detection.plan().check(len(scenes))
