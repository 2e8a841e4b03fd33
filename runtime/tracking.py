"""Where figures go: a CSV file, and wandb or TensorBoard on request. Their failure never stops a run."""

import logging
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import PIL.Image
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from PIL.Image import Image

from celltransfer import program
from runtime.code_version import code_version
from runtime.config import LoggerConfig, check_extras
from runtime.csv_logger import CsvLogger
from runtime.digests import digest
from runtime.forgiving import ForgivingTensorBoardLogger, ForgivingWandbLogger
from runtime.patience import NoAnswerError, patiently
from runtime.wandb_runs import Input, WandbRun, alias, artifact_metadata, describe, finite

log = logging.getLogger(__name__)


def build_loggers(
    config: LoggerConfig,
    folder: Path,
    stage: str,
    values: dict[str, Any],
    data: Mapping[str, Any] | None = None,
) -> list[Logger]:
    """Loggers for one stage's run. values: its configuration; data: digests of what it learns from. wandb
    shows both.

    wandb is offline where nobody is logged in."""
    if config.name == "none":
        return []
    loggers: list[Logger] = [CsvLogger(folder / "metrics.csv")]
    if config.name == "tensorboard":
        check_extras(config, "logger")
        loggers.append(ForgivingTensorBoardLogger(folder, name="", version="tensorboard"))
    if config.name == "wandb":
        loggers += _wandb_logger(config, folder, stage, values, data)
    return loggers


def _wandb_logger(
    config: LoggerConfig,
    folder: Path,
    stage: str,
    values: Mapping[str, Any],
    data: Mapping[str, Any] | None,
) -> list[Logger]:
    import wandb  # half a second that a run without wandb need not wait

    try:
        described = describe(folder, stage, values, config.project, config.group)
        described.save(folder)
        inputs = {key: each.sha256 for key, each in described.inputs.items()}
        own = {"version": code_version(), "inputs": inputs, "data": dict(data or {})}
        logged_in = patiently(lambda: wandb.login(prompt=False)) if "WANDB_MODE" not in os.environ else None
        run = patiently(
            lambda: wandb.init(
                project=described.project,
                group=described.group,
                name=described.name,
                job_type=described.job_type,
                tags=described.tags,
                id=described.id,
                resume="allow",  # continued where wandb knows the id, else begun
                dir=str(folder),
                config={**values, "celltransfer": own},
                mode="offline" if logged_in is False else None,  # None: as WANDB_MODE says
                settings=wandb.Settings(silent=True, console="off"),
                reinit="finish_previous",
            )
        )
    except Exception as error:  # as above
        log.warning("wandb could not start, the run goes on without it: %s", error)
        return []
    logger = ForgivingWandbLogger(run, described)
    if run.settings.mode == "online":
        log.info("wandb: %s", run.url)
        _use_inputs(logger)
    elif run.settings.mode == "offline":
        _tell_offline(folder.parent if config.group and folder.name == stage else folder)
    return [logger]


@cache
def _tell_offline(folder: Path) -> None:
    """Once for a chain, whose stages are sent by one command. folder: of the chain or of the stage."""
    log.info("wandb: offline; %s sends it", program(f"pipeline.wandb_sync {shlex.quote(str(folder))}"))


def _use_inputs(logger: ForgivingWandbLogger) -> None:
    """Links the files that the run began with; of the others their digests are in its configuration."""
    for each in logger.described.inputs.values():
        if each.artifact:
            _in_wandb([logger], each.reference, partial(_use, each))


def _use(each: Input, run: Any, wandb: Any) -> None:
    run.use_artifact(each.reference, type=each.kind)


def log_artifact(loggers: Sequence[Logger], path: Path, kind: str) -> None:
    """Hands a file to wandb where it is used. kind: `genotype`, `backbone` or `detector`."""
    for logger in loggers:
        if isinstance(logger, ForgivingWandbLogger):
            log_it = partial(add_artifact, path=path, kind=kind, described=logger.described)
            _in_wandb([logger], str(path), log_it)


def add_artifact(run: Any, wandb: Any, *, path: Path, kind: str, described: WandbRun) -> Any:
    """Logs a file to a run, named for its pipeline and with its digest as alias; returns the artifact."""
    metadata = artifact_metadata(path, described)
    artifact = wandb.Artifact(described.artifact(kind), type=kind, metadata=metadata)
    artifact.add_file(str(path))
    return run.log_artifact(artifact, aliases=["latest", alias(digest(path))])


def log_summary(loggers: Sequence[Logger], figures: Mapping[str, Any]) -> None:
    """Hands final figures to wandb's summary, by their names in `metrics.json`; undefined ones stay out."""
    _in_wandb(loggers, "the summary", lambda run, wandb: run.summary.update(finite(figures)))


def log_costs(loggers: Sequence[Logger], costs: Mapping[str, int], step: int) -> None:
    """Hands parameters and multiply-adds to wandb's summary, and to the others as metrics of a step."""
    log_summary(loggers, costs)
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger | CsvLogger):
            logger.log_metrics(dict(costs), step)


def log_table(
    loggers: Sequence[Logger], name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]
) -> None:
    """Hands a table to wandb where it is used."""
    _in_wandb(
        loggers, name, lambda run, wandb: run.log({name: wandb.Table(list(columns), [*map(list, rows)])})
    )


def log_images(loggers: Sequence[Logger], name: str, images: Sequence[tuple[Image, str]]) -> None:
    """Hands pictures with their captions to wandb where it is used."""

    def log_them(run: Any, wandb: Any) -> None:
        padded = _of_one_size([image for image, _ in images])
        run.log({name: [wandb.Image(p, caption=c) for p, (_, c) in zip(padded, images, strict=True)]})

    _in_wandb(loggers, name, log_them)


def _of_one_size(images: Sequence[Image]) -> list[Image]:
    """Padded at the right and below: wandb shows those of unlike sizes distorted."""
    size = (max(image.width for image in images), max(image.height for image in images))
    canvases = [PIL.Image.new("RGB", size) for _ in images]
    for canvas, image in zip(canvases, images, strict=True):
        canvas.paste(image)
    return canvases


class Box(NamedTuple):
    """A box on a picture. corners: x1, y1, x2, y2 in pixels. label: of a class. score: if it has one."""

    corners: tuple[float, float, float, float]
    label: int
    score: float | None


@dataclass(frozen=True)
class BoxedImage:
    """A picture with groups of boxes, such as what is in it and what was found."""

    image: Image
    caption: str
    boxes: Mapping[str, Sequence[Box]]


def log_boxes(
    loggers: Sequence[Logger], name: str, images: Sequence[BoxedImage], class_names: Mapping[int, str]
) -> None:
    """Hands pictures to wandb where it is used; there, groups, classes and scores choose the boxes shown.

    class_names: of every label."""

    def entry(box: Box) -> dict[str, Any]:
        position = dict(zip(("minX", "minY", "maxX", "maxY"), box.corners, strict=True))
        score = "" if box.score is None else f" {box.score:.2f}"
        scores = {} if box.score is None else {"scores": {"score": box.score}}
        caption = f"{class_names[box.label]}{score}"
        return {
            "position": position,
            "domain": "pixel",
            "class_id": box.label,
            "box_caption": caption,
        } | scores

    def log_them(run: Any, wandb: Any) -> None:
        names = dict(class_names)
        pictures = [
            wandb.Image(
                padded,
                caption=one.caption,
                boxes={
                    group: {"box_data": [entry(box) for box in boxes], "class_labels": names}
                    for group, boxes in one.boxes.items()
                },
            )
            for padded, one in zip(_of_one_size([one.image for one in images]), images, strict=True)
        ]
        run.log({name: pictures})

    _in_wandb(loggers, name, log_them)


def log_lines(
    loggers: Sequence[Logger],
    name: str,
    x_name: str,
    xs: Sequence[float],
    lines: Mapping[str, Sequence[float]],
) -> None:
    """Hands a chart of lines over common `xs` to wandb where it is used."""

    def log_them(run: Any, wandb: Any) -> None:
        ys = [list(line) for line in lines.values()]
        run.log({name: wandb.plot.line_series(list(xs), ys, keys=list(lines), title=name, xname=x_name)})

    _in_wandb(loggers, name, log_them)


def log_confusion(
    loggers: Sequence[Logger], name: str, classes: Sequence[str], matrix: Sequence[Sequence[int]]
) -> None:
    """Hands a confusion matrix to wandb where it is used. matrix: `[K][K]`, by true, then predicted class."""

    def log_matrix(run: Any, wandb: Any) -> None:
        columns = ["Actual", "Predicted", "nPredictions"]  # what wandb's chart asks for
        rows = [
            [a, b, n]
            for a, row in zip(classes, matrix, strict=True)
            for b, n in zip(classes, row, strict=True)
        ]
        table = wandb.Table(columns, rows)
        run.log({name: wandb.plot_table("wandb/confusion_matrix/v1", table, {c: c for c in columns})})

    _in_wandb(loggers, name, log_matrix)


def _in_wandb(loggers: Sequence[Logger], what: str, log_it: Callable[[Any, Any], None]) -> None:
    """Calls `log_it` with each run of wandb and with its package."""
    for logger in loggers:
        if isinstance(logger, ForgivingWandbLogger) and not logger.failed:
            import wandb

            run = logger.experiment
            try:
                patiently(partial(log_it, run, wandb))
            except NoAnswerError as error:
                logger.failed = True
                log.warning("wandb did not take %s and is left out from here on: %s", what, error)
            except Exception as error:  # as above
                log.warning("wandb did not take %s: %s", what, error)


def finish(loggers: Sequence[Logger]) -> None:
    """Flushes and closes the loggers of a run."""
    for logger in loggers:
        logger.finalize("success")
        if isinstance(logger, ForgivingWandbLogger) and not logger.failed:
            try:
                patiently(logger.experiment.finish)
            except Exception as error:  # as above
                logger.failed = True
                log.warning("wandb did not close its run (wandb sync sends what it has): %s", error)
