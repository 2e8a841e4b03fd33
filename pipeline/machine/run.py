"""Searches cells, trains the best and some known networks as detectors, and compares them on this machine."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import classification.train
import detection.train
import search.run
from backbones.build import build
from backbones.files import write_json
from backbones.published import NASNET_A
from backbones.ranges import under
from backbones.timing import quartiles
from detection.training.build import open_images
from pipeline.machine.config import MachineConfig
from pipeline.machine.page import mark_front, table, write_page
from pipeline.machine.points import Point, points
from pipeline.machine.timing import Times, exported, timed
from runtime.config import LoggerConfig, check_extras
from runtime.digests import digest, record
from runtime.folder import RunFolder
from runtime.owner import owned
from runtime.trainer import check_machine
from search.latency.measure import check_engine
from search.reranking import rerank

log = logging.getLogger(__name__)

FILE = "machine.json"
"""All figures of the comparison."""
WIDTH = 120
"""Of the table."""


def run(config: MachineConfig) -> dict[str, Any]:
    """Runs what is not finished; writes `machine.json`, `machine.html` and a card beside each detector.

    Returns what the first holds. Raises ValueError, FileNotFoundError or ModuleNotFoundError before the
    search when a later part could not run."""
    with owned(config.run_dir, config.search.run_dir, config.rerank.run_dir):
        check(config)
        stages = ("search", "rerank", "classification", "detection")
        folder = RunFolder.open(
            config.run_dir,
            config,
            stage="machine",
            may_change=("data", "seed", "cells", "baselines", *stages),
        )
        logger = replace(config.logger, group=config.logger.group or folder.path.name)
        search.run.run(replace(config.search, logger=logger))
        rerank(config.rerank)
        networks = points(config)
        trained = []
        for number, network in enumerate(networks, start=1):
            log.info("network %d of %d: %s", number, len(networks), network.name)
            trained.append(train(config, network, logger))
        files = [exported(network.folder, config.search.latency) for network in networks]
        times = timed(folder.path, files, config)
        entries = [
            entry(folder.path, network, figures, file, times)
            for network, figures, file in zip(networks, trained, files, strict=True)
        ]
        mark_front(entries)
        content = {"protocol": times.protocol, "processor": times.processor, "networks": entries}
        write_json(folder.path / FILE, content)
        page = write_page(folder.path, entries, times.protocol, times.processor)
        folder.log("machine")
        record(folder.path)
    Console(width=WIDTH).print(table(entries))
    print(f"{times.protocol}\n{times.processor}\n{page}")
    return content


def check(config: MachineConfig) -> None:
    """Builds what later parts need, as far as it can be built; NASNet-A stands in for searched cells."""
    with under("search"):
        check_engine(config.search.latency)
    for number in range(len(config.baselines)):
        backbone = config.baseline(number)
        check_extras(backbone, f"baselines.{number}")
        with under(f"baselines.{number}"), torch.device("meta"):
            build(backbone.spec(), 1)
    with under("classification"):
        check_machine(config.classification.trainer)
        with under("backbone"):
            spec = config.classification.backbone.spec_of(NASNET_A)
        train_images, _ = classification.train.open_both(config.classification.data)
        config.classification.plan().check(len(train_images))
    with under("detection"):
        check_machine(config.detection.trainer)
        with torch.device("meta"):
            config.detection.detector.build(build(spec, 1), 1)
        scenes, *_ = open_images(config.detection.data, config.detection.seed, processes=1)
        if isinstance(config.detection.recipe.batch_size, int):
            config.detection.plan().check(len(scenes))


def train(config: MachineConfig, network: Point, logger: LoggerConfig) -> Mapping[str, Any]:
    """The classifier, then the detector on its backbone; returns what the detector's `metrics.json` holds."""
    first = network.folder / "classification"
    classifier = replace(config.classification, run_dir=str(first), backbone=network.backbone, logger=logger)
    classification.train.run(classifier)
    source = replace(config.detection.backbone, weights=str(first / classification.train.WEIGHTS), name=None)
    detector = replace(
        config.detection, run_dir=str(network.folder / "detection"), backbone=source, logger=logger
    )
    return detection.train.run(detector)


def entry(
    folder: Path, network: Point, trained: Mapping[str, Any], file: Path, times: Times
) -> dict[str, Any]:
    """One network in `machine.json`. trained: its detector's figures. file: what was timed."""
    sha256 = digest(file)
    lower, median, upper = quartiles(times.milliseconds[sha256])
    backbone = network.backbone
    known = {key: value for key, value in vars(backbone).items() if value is not None}
    return {
        "name": network.name,
        "folder": str(network.folder.relative_to(folder)),
        "backbone": known,
        "searched": network.searched,
        "ms": median,
        "quartiles": [lower, upper],
        "metrics": trained["metrics"],
        "per_class": trained["per_class"],
        "costs": trained["costs"],
        "images": trained["images"],
        "steps": trained["steps"],
        "file": str(file.relative_to(network.folder)),
        "sha256": sha256,
        "weights": str(network.folder / "detection" / detection.train.WEIGHTS),
    }
