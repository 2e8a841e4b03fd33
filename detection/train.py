"""From a backbone and COCO-format data to a trained, evaluated detector."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch

from backbones.statistics import warn_of_slow_statistics
from classification.optimizers import ExponentialAverage
from detection.data.images import DetectionImages, collate
from detection.detector import Detector
from detection.evaluation.results_file import write_results
from detection.evaluation.run import predict_all, record, scored_on
from detection.evaluation.scoring import evaluate
from detection.training.batch_size import keep_batch_size, kept_batch_size
from detection.training.build import build_detector, find_batch_size, open_images
from detection.training.config import DetectionConfig
from detection.training.module import DetectionModule
from detection.training.recipe import AUTO, DetectionRecipe
from detection.training.validation import Validation
from runtime.distributed import broadcast_buffers, rank
from runtime.folder import RunFolder, plain
from runtime.launch import launched_rank
from runtime.loading import ResumableLoader
from runtime.progress_callback import ProgressCallback
from runtime.random import counter_hash
from runtime.tracking import build_loggers, finish, log_artifact
from runtime.trainer import build_trainer, check_machine, last_checkpoint

log = logging.getLogger(__name__)

STAGE = "detection"
MAY_CHANGE = ("trainer", "data.root", "data.workers", "evaluator")
"""Keys that do not make another run of it."""
WEIGHTS, BEST = "detector.safetensors", "best.safetensors"


def run(config: DetectionConfig) -> dict[str, Any]:
    """Trains, evaluates, writes `detector.safetensors`, `predictions.json` and `metrics.json`.

    Returns what metrics.json holds. Continues an unfinished run, and returns the figures of a finished one.
    Of several processes the first one writes and returns that, the others return nothing.
    Raises ValueError or FileNotFoundError for anything wrong with data, backbone or configuration, before
    anything is written."""
    if RunFolder(Path(config.run_dir)).finished() is None:
        return _train(config)
    if launched_rank():
        return {}
    folder = RunFolder.open(config.run_dir, config, stage=STAGE, may_change=MAY_CHANGE)
    return folder.finished() or _train(config)


def _train(config: DetectionConfig) -> dict[str, Any]:
    check_machine(config.trainer)
    L.seed_everything(config.seed, verbose=False)
    train, val, categories = open_images(config.data, config.seed, config.trainer.processes)
    recipe = config.recipe
    recipe.total_steps(len(train))
    detector = build_detector(
        config.backbone, config.detector, recipe, config.trainer, config.data.evaluation_size, categories
    )
    folder = RunFolder(Path(config.run_dir))
    if recipe.batch_size == AUTO:
        found = kept_batch_size(folder.path) or find_batch_size(
            detector.engine, recipe, config.trainer, config.data, len(train)
        )
        recipe = recipe.with_batch_size(found)
    steps = recipe.steps or _steps_per_epoch(config, recipe, train) * (recipe.epochs or 0)
    averaging = [ExponentialAverage(recipe.ema_decay)] if recipe.ema_decay is not None else []
    validation = _validation(config, recipe, detector, train, val, averaging)
    trainer = build_trainer(
        config.trainer,
        folder,
        [],
        [*averaging, ProgressCallback(STAGE, recipe.images_per_step), *validation],
        max_steps=steps,
        gradient_clip_norm=recipe.clip_norm,
        accumulate=recipe.accumulate,
        validate_every_epochs=None,
    )
    loader = _loader(config, recipe, train, trainer.global_rank)
    if trainer.global_rank:  # weights are of one seed, drop path is each process's own
        own = counter_hash(config.seed, trainer.global_rank)[0] >> np.uint64(33)
        L.seed_everything(int(own), verbose=False)
    else:
        # All that could be refused has been built, so the folder may be written to.
        folder = RunFolder.open(config.run_dir, config, stage=STAGE, may_change=MAY_CHANGE)
        if config.recipe.batch_size == AUTO:
            keep_batch_size(folder.path, recipe.images_per_step, trainer.strategy.root_device)
        _tell(config, recipe, detector, train, steps)
        trainer.loggers = build_loggers(config.logger, folder.path, STAGE, plain(config))
    module = DetectionModule(detector.engine, recipe, steps).train()
    trainer.fit(module, loader, ckpt_path=last_checkpoint(folder), weights_only=True)
    return _finish(config, folder, detector, val, trainer, validation)


def _finish(
    config: DetectionConfig,
    folder: RunFolder,
    detector: Detector,
    val: DetectionImages,
    trainer: L.Trainer,
    validation: list[Validation],
) -> dict[str, Any]:
    """Evaluates on all processes; the first one writes."""
    # As the file will be read: another order in memory is another order of sums, hence other last digits.
    detector.engine.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    broadcast_buffers(detector.to(trainer.strategy.root_device).engine)
    results = predict_all(detector, val, config.data.workers)
    if trainer.global_rank:
        return {}
    evaluation = evaluate(val.coco, results, config.evaluator)
    write_results(folder.path / "predictions.json", results)
    detector.save(folder.path / WEIGHTS, evaluation.metrics)
    more: dict[str, Any] = {"undefined": evaluation.undefined, **scored_on(val.coco)}
    for callback in validation:
        callback.offer(trainer.global_step, evaluation.metrics)
        more |= {"steps": trainer.global_step, "best": {"AP": callback.best, "step": callback.best_step}}
    for logger in trainer.loggers:
        values = {f"val/{name}": value for name, value in evaluation.metrics.items()}
        logger.log_metrics(values, trainer.global_step)
    record(folder.path, trainer.loggers, val, val.coco, results, evaluation)
    log_artifact(trainer.loggers, folder.path / WEIGHTS, "detector")
    finish(trainer.loggers)
    return folder.finish(STAGE, "val", evaluation.metrics, evaluation.per_class, **more)


def _validation(
    config: DetectionConfig,
    recipe: DetectionRecipe,
    detector: Detector,
    train: DetectionImages,
    val: DetectionImages,
    averaging: list[ExponentialAverage],
) -> list[Validation]:
    every = config.validate_every_steps
    if config.validate_every_epochs is not None:
        every = config.validate_every_epochs * _steps_per_epoch(config, recipe, train)
    if every is None:
        return []

    def score() -> Mapping[str, float]:
        device = next(detector.engine.parameters()).device
        results = predict_all(detector.to(device), val, config.data.workers)
        detector.to(device)  # drops its copy for predictions, whose memory the training needs
        return {} if rank() else evaluate(val.coco, results, config.evaluator).metrics

    def keep(metrics: Mapping[str, float]) -> None:
        detector.save(Path(config.run_dir) / BEST, metrics)

    average = averaging[0] if averaging else None
    return [Validation(score, keep, every=every, patience=recipe.patience, averaging=average)]


def _loader(
    config: DetectionConfig, recipe: DetectionRecipe, train: DetectionImages, own_rank: int
) -> ResumableLoader:
    """Batches of one backward pass; what does not fill a whole optimiser step of an epoch is left out."""
    return ResumableLoader(
        train,
        config.trainer.images_per_pass(recipe.images_per_step, recipe.accumulate),
        seed=config.seed,
        shuffle=True,
        workers=config.data.workers,
        drop_last=True,
        step=recipe.accumulate,
        collate=collate,
        rank=own_rank,
        world=config.trainer.processes,
    )


def _steps_per_epoch(config: DetectionConfig, recipe: DetectionRecipe, train: DetectionImages) -> int:
    return len(_loader(config, recipe, train, 0)) // recipe.accumulate


def _tell(
    config: DetectionConfig, recipe: DetectionRecipe, detector: Detector, train: DetectionImages, steps: int
) -> None:
    frozen = recipe.freezes_statistics(config.backbone.pretrained)
    own = "all devices' statistics" if config.trainer.sync_batch_norm else "each batch's statistics"
    if recipe.norm == "group":
        own = "groups of channels instead"
    log.info(
        "%d training images, %d categories, %d steps; backbone %s, its batch normalisation uses %s",
        *(len(train), len(detector.categories), steps),
        "pretrained" if config.backbone.pretrained else "from scratch",
        "the stored statistics" if frozen else own,
    )
    log.info(
        "%d images per step: %d devices x %d nodes x %d accumulated batches of %d; learning rate %.4g",
        *(recipe.images_per_step, config.trainer.devices, config.trainer.num_nodes, recipe.accumulate),
        config.trainer.images_per_pass(recipe.images_per_step, recipe.accumulate),
        recipe.scaled_lr,
    )
    if still := sum(not p.requires_grad for p in detector.engine.backbone.parameters()):
        log.info("%d tensors of the backbone, up to c%d, stay as loaded", still, config.backbone.freeze_at)
    if not frozen and not config.backbone.pretrained:
        warn_of_slow_statistics(detector.engine.backbone, steps * recipe.accumulate)
