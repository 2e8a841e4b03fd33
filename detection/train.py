"""From a backbone and COCO-format data to a trained, evaluated detector."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L

from backbones.statistics import warn_of_slow_statistics
from detection.backbone import BackboneSource, FrozenStatistics, freeze_statistics
from detection.coco_file import CategoryEntry
from detection.data import CocoDataConfig, DetectionImages
from detection.detector import Detector, InputSize, check_categories
from detection.engines.base import EngineConfig
from detection.evaluate import evaluate, predict_all, write_results
from detection.module import DetectionModule, DetectionRecipe
from runtime.folder import RunFolder, plain
from runtime.progress import ProgressCallback
from runtime.tracking import LoggerConfig, finish, log_artifact
from runtime.trainer import TrainerConfig, last_checkpoint

log = logging.getLogger(__name__)

MAY_CHANGE = ("trainer", "data.root", "data.workers")
"""Keys that do not make another run of it."""


@dataclass(kw_only=True)
class DetectionConfig:
    """`python -m detection`: trains a Faster R-CNN and scores it on the validation images."""

    run_dir: str
    """Folder of the run; an unfinished run there goes on."""
    backbone: BackboneSource
    """What the detector is built on."""
    data: CocoDataConfig
    """Group `data`: `coco` or `scenes`."""
    detector: EngineConfig
    """Group `detector`."""
    recipe: DetectionRecipe = field(default_factory=DetectionRecipe)
    """Group `recipe`."""
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    """Device, precision, checkpoints."""
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    """Where the figures go."""
    seed: int = 0
    """Of fresh weights, order, augmentation and sampling."""

    def __post_init__(self) -> None:
        self.trainer.refuse_for("detection")


def run(config: DetectionConfig) -> dict[str, Any]:
    """Trains, evaluates, writes `detector.safetensors`, `predictions.json` and `metrics.json`.

    Returns what metrics.json holds. Continues an unfinished run, and returns the figures of a finished one.
    Raises ValueError or FileNotFoundError for anything wrong with data, backbone or configuration, before
    anything is written."""
    if (Path(config.run_dir) / "metrics.json").exists():
        folder = RunFolder.open(config.run_dir, config, stage="detection", may_change=MAY_CHANGE)
        return folder.finished() or {}
    detector, train, val = _build(config)
    steps = config.recipe.total_steps(len(train))

    folder = RunFolder.open(config.run_dir, config, stage="detection", may_change=MAY_CHANGE)
    frozen = any(isinstance(module, FrozenStatistics) for module in detector.engine.modules())
    log.info(
        "%d training images, %d categories, %d steps; backbone %s, its batch normalisation uses %s",
        len(train),
        len(detector.categories),
        steps,
        "pretrained" if config.backbone.pretrained else "from scratch",
        "the stored statistics" if frozen else "each batch's statistics",
    )
    if not frozen and not config.backbone.pretrained:
        warn_of_slow_statistics(detector.engine.backbone, steps)
    loggers = config.logger.build(folder.path, "detection", plain(config))
    trainer = config.trainer.build(
        folder,
        loggers,
        [ProgressCallback("detection", config.recipe.batch_size)],
        max_steps=steps,
        gradient_clip_norm=config.recipe.clip_norm,
        validate_every_epochs=None,
    )
    module = DetectionModule(detector.engine, config.recipe, train, config.data.workers, config.seed).train()
    trainer.fit(module, ckpt_path=last_checkpoint(folder), weights_only=True)

    results = predict_all(detector.to(trainer.strategy.root_device), val, config.data.workers)
    evaluation = evaluate(val.coco, results)
    write_results(folder.path / "predictions.json", results)
    weights = folder.path / "detector.safetensors"
    detector.save(weights, evaluation.metrics)
    for logger in loggers:
        logger.log_metrics({f"val/{name}": value for name, value in evaluation.metrics.items()}, steps)
    log_artifact(loggers, weights, "detector")
    finish(loggers)
    return folder.finish(
        "detection", "val", evaluation.metrics, evaluation.per_class, undefined=evaluation.undefined
    )


def _build(config: DetectionConfig) -> tuple[Detector, DetectionImages, DetectionImages]:
    """The untrained detector, the training and the validation images; writes nothing."""
    L.seed_everything(config.seed, verbose=False)
    backbone = config.backbone.build()
    train, val = config.data.open("train", seed=config.seed), config.data.open("val")
    if not val.coco.annotated:
        raise ValueError(f"{val.coco.path}: the key 'annotations' is missing, nothing to evaluate with")
    names = zip(train.coco.category_ids, train.coco.category_names, strict=True)
    categories = [CategoryEntry(category, name) for category, name in names]
    check_categories(val.coco, categories)
    preprocessing = backbone.preprocessing
    engine = config.detector.build(backbone, len(categories), preprocessing.mean, preprocessing.std)
    frozen = config.recipe.freeze_statistics
    if config.backbone.pretrained if frozen is None else frozen:
        freeze_statistics(engine.backbone)
    size = InputSize(config.data.test_min_size, config.data.max_size)
    detector = Detector(engine, config.detector, backbone.spec, preprocessing, categories, size)
    return detector, train, val
