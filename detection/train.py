"""From a backbone and COCO-format data to a trained, evaluated detector."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import torch

from backbones.statistics import warn_of_few_values, warn_of_slow_statistics
from backbones.words import counted
from classification.callbacks import ExponentialAverage
from detection.data.images import DetectionImages, collate
from detection.detector import Detector
from detection.engines.config import C4_STRIDE, C4Config
from detection.engines.costs import profile
from detection.evaluation.preview import write_preview
from detection.evaluation.results_file import write_results
from detection.evaluation.run import fingerprint, predict_all, record, scored_on
from detection.evaluation.scoring import evaluate
from detection.training.batch_size import keep_batch_size, kept_batch_size
from detection.training.build import build_detector, find_batch_size, open_images
from detection.training.config import DetectionConfig
from detection.training.module import DetectionModule
from detection.training.recipe import AUTO
from detection.training.sizes import warn_of_few_steps
from detection.training.validation import Validation
from runtime.distributed import broadcast_buffers, rank
from runtime.folder import RunFolder
from runtime.growth import run_of
from runtime.loading import training_loader
from runtime.named_weights import weights_file
from runtime.progress_callback import ProgressCallback
from runtime.stage import Stage, log_metrics, seed_process
from runtime.steps import log_rate
from runtime.tracking import log_costs
from runtime.trainer import build_trainer, check_machine, last_checkpoint, training_device

log = logging.getLogger(__name__)

WEIGHTS, BEST, PREDICTIONS = "detector.safetensors", "best.safetensors", "predictions.json"
STAGE = Stage(
    "detection",
    may_change=("trainer", "data.root", "data.workers", "evaluator"),
    products=(WEIGHTS, PREDICTIONS),
    length=(
        *("recipe.steps", "recipe.epochs", "recipe.warmup_steps", "recipe.milestones", "recipe.patience"),
        *("validate_every_steps", "validate_every_epochs"),
    ),
)


def run(config: DetectionConfig) -> dict[str, Any]:
    """Trains, evaluates, writes `detector.safetensors`, `predictions.json` and `metrics.json`.

    Returns what metrics.json holds. Continues an unfinished run, and returns the figures of a finished one.
    Of several processes the first one writes and returns that, the others return nothing.
    Raises ValueError or FileNotFoundError for anything wrong with data, backbone or configuration, before
    anything is written."""
    source = config.backbone
    if source.weights is not None:
        weights = weights_file(source.weights, "backbone.weights")
        config = replace(config, backbone=replace(source, weights=weights))
    config = STAGE.meant(config)
    content = STAGE.run(config, _train)
    best = Path(config.run_dir) / BEST
    validated = config.validate_every_steps or config.validate_every_epochs
    if content.get("best") and validated and not best.exists():
        log.warning("%s is gone; its step lies before the last checkpoint, so it cannot be made again", best)
    return content


def _train(asked: DetectionConfig) -> dict[str, Any]:
    check_machine(asked.trainer)
    seed_process(asked.seed, rank=0)
    train, val, categories = open_images(asked.data, asked.seed, asked.trainer.processes)
    if asked.recipe.batch_size != AUTO:
        asked.plan().check(len(train))
    size = asked.data.evaluation_size
    detector = build_detector(
        asked.start, asked.detector, asked.recipe, asked.trainer, size, categories, asked.init
    )
    config = _with_batch_size(asked, detector, len(train))
    recipe, steps = config.recipe, config.recipe.total_steps(config.plan(), len(train))
    averaging = [ExponentialAverage(recipe.ema_decay)] if recipe.ema_decay is not None else []
    validation = _validation(config, detector, train, val, averaging)
    trainer = build_trainer(
        config.trainer,
        RunFolder(Path(config.run_dir)),
        [],
        [*averaging, ProgressCallback(STAGE.name, config.plan().batch_size), *validation],
        max_steps=steps,
        gradient_clip_norm=recipe.clip_norm,
        accumulate=recipe.accumulate,
        validate_every_epochs=None,
    )
    own_rank = trainer.global_rank
    loader = training_loader(
        train, config.plan(), seed=config.seed, rank=own_rank, workers=config.data.workers, collate=collate
    )
    if own_rank:  # weights are of one seed, drop path is each process's own
        seed_process(config.seed, own_rank)
    detector.check_storable(str(Path(config.run_dir) / WEIGHTS))
    costs = _costs(config, detector)
    annotations = {split: fingerprint(images.coco) for split, images in {"train": train, "val": val}.items()}
    folder = STAGE.open(asked, trainer, annotations)
    if not own_rank:
        if asked.recipe.batch_size == AUTO:
            keep_batch_size(folder.path, config.plan().batch_size, trainer.strategy.root_device)
        _tell(config, detector, train, steps)
        order = loader.order(0).tolist()
        write_preview(folder.path, train, order, config.plan().batch_size, trainer.loggers)
    module = DetectionModule(detector.engine, recipe, steps).train()
    checkpoint = last_checkpoint(folder, module, config.continues)
    trainer.fit(module, loader, ckpt_path=checkpoint, weights_only=True)
    return _finish(config, folder, detector, val, trainer, validation, costs)


def _with_batch_size(config: DetectionConfig, detector: Detector, images: int) -> DetectionConfig:
    """The same with a number where `recipe.batch_size` is `auto`: what the run began with, or what fits."""
    if config.recipe.batch_size != AUTO:
        return config
    found = kept_batch_size(Path(config.run_dir))
    if found is None and config.continues is not None:
        found = kept_batch_size(run_of(Path(config.continues)))
    if found is None:
        found = find_batch_size(detector.engine, config.recipe, config.trainer, config.data, images)
    return replace(config, recipe=replace(config.recipe, batch_size=found))


def _finish(
    config: DetectionConfig,
    folder: RunFolder,
    detector: Detector,
    val: DetectionImages,
    trainer: L.Trainer,
    validation: list[Validation],
    costs: dict[str, int],
) -> dict[str, Any]:
    """Evaluates on all processes; the first one writes. costs: of the detector, for its figures."""
    # As the file will be read: another order in memory is another order of sums, hence other last digits.
    detector.engine.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    broadcast_buffers(detector.to(trainer.strategy.root_device).engine)
    results = predict_all(detector, val, config.data.workers)
    if trainer.global_rank:
        return {}
    evaluation = evaluate(val.coco, results, config.evaluator)
    metrics, weights = evaluation.metrics, folder.path / WEIGHTS
    write_results(folder.path / PREDICTIONS, results)
    detector.save(weights, metrics)
    more: dict[str, Any] = {"undefined": evaluation.undefined, "costs": costs, **scored_on(val.coco)}
    more["steps"] = trainer.global_step
    if "AP" in metrics:  # no box annotated: none
        more["best"] = {"AP": metrics["AP"], "step": trainer.global_step}
    for callback in validation:
        callback.offer(trainer.global_step, metrics)
        if callback.best is not None:
            more["best"] = {"AP": callback.best, "step": callback.best_step}
    log_metrics(trainer.loggers, "val", metrics, trainer.global_step)
    log_costs(trainer.loggers, costs, trainer.global_step)
    record(folder.path, trainer.loggers, val, val.coco, results, evaluation)
    return STAGE.finish(folder, trainer.loggers, "val", metrics, evaluation.per_class, **more)


def _costs(config: DetectionConfig, detector: Detector) -> dict[str, int]:
    """Of one image of the largest size that evaluation looks at."""
    spec: Any = detector.engine.backbone.spec
    parts = profile(config.detector, spec, len(detector.categories), config.data.evaluation_size.largest())
    return {
        "parameters": sum(part.parameters for part in parts),
        "multiply_adds": sum(part.multiply_adds * part.times for part in parts),
    }


def _validation(
    config: DetectionConfig,
    detector: Detector,
    train: DetectionImages,
    val: DetectionImages,
    averaging: list[ExponentialAverage],
) -> list[Validation]:
    every = config.validate_every_steps
    if config.validate_every_epochs is not None:
        every = config.validate_every_epochs * config.plan().steps_per_epoch(len(train))
    if every is None:
        return []

    def score() -> Mapping[str, float]:
        device = next(detector.engine.parameters()).device
        results = predict_all(detector.to(device), val, config.data.workers)
        detector.to(device)  # drops its copy for predictions, whose memory the training needs
        return {} if rank() else evaluate(val.coco, results, "fast").metrics

    def keep(metrics: Mapping[str, float]) -> None:
        detector.save(Path(config.run_dir) / BEST, metrics)

    average = averaging[0] if averaging else None
    return [Validation(score, keep, every=every, patience=config.recipe.patience, averaging=average)]


def _tell(config: DetectionConfig, detector: Detector, train: DetectionImages, steps: int) -> None:
    recipe = config.recipe
    frozen = recipe.freezes_statistics(config.start.pretrained)
    own = "all devices' statistics" if config.trainer.sync_batch_norm else "each batch's statistics"
    if recipe.norm == "group":
        own = "groups of channels instead"
    log.info(
        "%s, %s, %s; backbone %s, its batch normalisation uses %s",
        counted(len(train), "training image"),
        counted(len(detector.categories), "category", "categories"),
        counted(steps, "step"),
        "pretrained" if config.start.pretrained else "from scratch",
        "the stored statistics" if frozen else own,
    )
    log.info("%s; learning rate %.4g; %s", config.plan(), recipe.scaled_lr, config.data.size_told("train"))
    log_rate(recipe.lr, recipe.scaled_lr, recipe.images_per_step, recipe.reference_batch_size)
    every = [
        counted(number, unit)
        for number, unit in ((config.validate_every_steps, "step"), (config.validate_every_epochs, "epoch"))
        if number is not None
    ]
    log.info(
        "each image is seen %.3g times; AP is computed %s",
        steps * recipe.images_per_step / len(train),
        f"after every {every[0]} and at the end" if every else "at the end",
    )
    if still := sum(not p.requires_grad for p in detector.engine.backbone.parameters()):
        log.info("%d tensors of the backbone, up to c%d, stay as loaded", still, config.backbone.freeze_at)
    if not config.start.pretrained:
        cuda = training_device(config.trainer).type == "cuda"
        warn_of_few_steps(len(train), steps, recipe.images_per_step, cuda=cuda)
        if not frozen:
            warn_of_slow_statistics(detector.engine.backbone, steps * recipe.accumulate)
    if not frozen:
        # The rest of the network sees regions of a detector on one map, which are many.
        last = C4_STRIDE if isinstance(config.detector, C4Config) else None
        least = detector.engine.batch_sides([train.smallest()])
        warn_of_few_values(detector.engine.backbone, config.plan().images_per_norm, *least, last)
