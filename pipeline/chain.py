"""The chain: search, then classification, then detection, each from the file that the one before wrote."""

import io
import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console, RenderableType

import classification.train
import detection.train
import search.run
from backbones.network import NASNet
from backbones.published import NASNET_A
from backbones.ranges import KEY, ConfigError, under
from detection.training.build import open_images
from detection.training.recipe import AUTO
from pipeline.config import PipelineConfig
from pipeline.report import write_report
from pipeline.summary import summary
from runtime.device import resolve_device
from runtime.digests import record
from runtime.folder import RunFolder, log_only
from runtime.owner import owned
from runtime.stage import Stage
from runtime.trainer import check_machine

log = logging.getLogger(__name__)

STAGES: dict[str, tuple[Stage, Callable[[Any], dict[str, Any]]]] = {
    "search": (search.run.STAGE, search.run.run),
    "classification": (classification.train.STAGE, classification.train.run),
    "detection": (detection.train.STAGE, detection.train.run),
}


def run(config: PipelineConfig) -> dict[str, Any]:
    """Runs what is not finished and writes `report.html`; returns what detection's `metrics.json` holds.

    Raises ValueError or FileNotFoundError before the search when a later stage could not run.
    """
    folders = {name: Path(getattr(config, name).run_dir) for name in STAGES}
    with owned(config.run_dir, *folders.values()):
        unfinished = [name for name, (stage, _) in STAGES.items() if not stage.is_finished(folders[name])]
        check(config, unfinished)
        # Each stage judges by its own folder whether it is the same run.
        folder = RunFolder.open(
            config.run_dir, config, stage="pipeline", may_change=("data", "seed", *STAGES)
        )
        logger = replace(config.logger, group=config.logger.group or Path(config.run_dir).name)
        result: dict[str, Any] = {}
        for name, (_, run_stage) in STAGES.items():
            log.info("%s: %s", name, folders[name])
            with _stage(name):
                result = run_stage(replace(getattr(config, name), logger=logger))
        folder.log("pipeline")
        write_report(config.run_dir)
        table = summary(config.run_dir)
        record(folder.path)
        Console().print(table)
        log_only(_as_text(table))
    return result


def _as_text(table: RenderableType) -> str:
    console = Console(file=io.StringIO(), width=100)
    with console.capture() as capture:
        console.print(table)
    return "\n" + capture.get().rstrip()


def check(config: PipelineConfig, unfinished: Collection[str]) -> None:
    """Builds what later stages need, as far as it can be built, to find their faults before the first begins.

    NASNet-A's cells stand in for those that the search will find.
    """
    if "search" in unfinished and config.search.evaluator is None:
        with _stage("search"), under("child"):
            resolve_device(config.search.child.device)
    classifier, detector = config.classification, config.detection
    if "classification" in unfinished:
        with _stage("classification"):
            check_machine(classifier.trainer)
            with under("backbone"):
                spec = classifier.backbone.spec_of(NASNET_A)
                if spec.stem == "cifar":
                    raise ConfigError(f"{KEY}stem = 'cifar', but detection needs the maps of 'imagenet'")
            train, _ = classification.train.open_both(classifier.data)
            classifier.plan().check(len(train))
    if "detection" in unfinished:
        with _stage("detection"):
            check_machine(detector.trainer)
            if "classification" in unfinished:
                with torch.device("meta"):
                    detector.detector.build(NASNet(spec, 1), 1)
            scenes, *_ = open_images(detector.data, detector.seed, processes=1)
            if detector.recipe.batch_size != AUTO:
                detector.plan().check(len(scenes))


@contextmanager
def _stage(name: str) -> Iterator[None]:
    """ConfigErrors in the block are of that stage; search and classification use the chain's own `data`."""
    try:
        yield
    except ConfigError as error:
        text = error.text if name == "detection" else error.text.replace(f"{KEY}data.", "data.")
        own = error.prefix == "data." and name != "detection"
        raise (error if own else type(error)(text, error.prefix).under(name)) from None
