"""Trains a classifier and writes `backbone.safetensors` and `metrics.json`."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loggers import Logger

from backbones import weights
from backbones.base import Classifier, training_forward
from backbones.build import build
from backbones.costs import profile
from backbones.ranges import under
from backbones.spec import Preprocessing
from backbones.statistics import warn_of_few_values, warn_of_slow_statistics
from backbones.words import counted
from classification.callbacks import ExponentialAverage, L2Gradient
from classification.config import ClassificationConfig, ImageDataConfig
from classification.data import ImageSet, open_images
from classification.decoded_images import DecodedImages, stack
from classification.device_images import DeviceBatches, DeviceImages
from classification.evaluation import evaluate, evaluation_loader, log_mistakes
from classification.mistakes import Mistakes, find_mistakes, write_mistakes
from classification.mixing import Mixing
from classification.module import ClassificationModule, DropPathSchedule, classification_loss
from classification.optimizers import build_optimizer, build_schedule
from classification.predictions import Predictions
from classification.rand_augment import RandAugment
from classification.start import start_from
from runtime.best import BestFigure
from runtime.finite import NonFiniteError
from runtime.folder import RunFolder
from runtime.loading import ResumableLoader, training_loader
from runtime.named_weights import weights_file
from runtime.progress_callback import ProgressCallback
from runtime.stage import Stage, log_metrics, seed_process
from runtime.steps import log_rate
from runtime.tracking import log_costs
from runtime.trainer import build_trainer, check_machine, compiled, last_checkpoint, prepare_network

log = logging.getLogger(__name__)

WEIGHTS = "backbone.safetensors"
STAGE = Stage(
    "classification",
    may_change=("trainer", "data.root", "data.download", "data.workers", "validate_every_epochs"),
    products=(WEIGHTS,),
    length=("recipe.epochs", "recipe.warmup_epochs"),
)


def run(config: ClassificationConfig) -> dict[str, Any]:
    """Trains, or continues, or returns at once what a finished run's `metrics.json` holds.

    Of several processes the first one writes and returns that, the others return nothing.
    Raises ValueError or FileNotFoundError for anything wrong with data, network or folder, before training.
    """
    if config.init is not None:
        config = replace(config, init=weights_file(config.init, "init"))
    return STAGE.run(STAGE.meant(config), _train)


def _train(config: ClassificationConfig) -> dict[str, Any]:
    check_machine(config.trainer)
    seed_process(config.seed, rank=0)
    train_images, test_images = open_both(config.data)
    network = _build_network(config, train_images.classes)
    recipe = config.recipe
    averaging = [ExponentialAverage(recipe.ema_decay)] if recipe.ema_decay is not None else []
    progress = ProgressCallback(STAGE.name, config.plan().batch_size)
    best = BestFigure("top1", "test/top1")
    trainer = build_trainer(
        config.trainer,
        RunFolder(Path(config.run_dir)),
        [],
        [*averaging, L2Gradient(), DropPathSchedule(network), progress, best],
        max_epochs=recipe.epochs,
        gradient_clip_norm=recipe.clip_norm,
        accumulate=recipe.accumulate,
        validate_every_epochs=config.validate_every_epochs,
    )
    device, rank = trainer.strategy.root_device, trainer.global_rank
    if rank:  # dropout and drop path are each rank's own, the weights are of one seed
        seed_process(config.seed, rank)
    train_loader = _train_loader(config, train_images, network.preprocessing, device, rank)
    test_loader = evaluation_loader(
        test_images, config.data, network.preprocessing, device, config.eval_batch_size
    )
    own_test_loader = test_loader.share(rank, config.trainer.processes)
    module = _build_module(config, network, config.plan().steps_per_epoch(len(train_images)))
    weights.check_storable(network, str(Path(config.run_dir) / WEIGHTS))
    folder = STAGE.open(
        config, trainer, {"train": train_images.fingerprint(), "test": test_images.fingerprint()}
    )
    if not rank:
        _tell(config, network, len(train_images))
        warn_of_slow_statistics(network, len(train_loader) * recipe.epochs)
        side = network.preprocessing.size
        warn_of_few_values(network, config.plan().images_per_norm, side, side)
    checkpoint = last_checkpoint(folder, module, config.continues)
    trainer.fit(module, train_loader, own_test_loader, ckpt_path=checkpoint, weights_only=True)
    if rank:
        return {}
    if averaging:
        log.info("The saved weights and batch-norm statistics are exponential averages over the steps")
    try:
        predictions = evaluate(network, test_loader, device)
    except NonFiniteError as error:
        kept = last_checkpoint(folder)
        raise NonFiniteError(f"{error}. The training itself is complete, its weights are in {kept}") from None
    mistakes = find_mistakes(predictions, test_images)
    best.offer(predictions.metrics()["top1"], trainer.global_step)
    more = {"steps": trainer.global_step, "best": best.state_dict()}
    return _finish(folder, network, predictions, mistakes, trainer.loggers, config.eval_batch_size, more)


def _finish(
    folder: RunFolder,
    network: Classifier,
    predictions: Predictions,
    mistakes: Mistakes,
    loggers: Sequence[Logger],
    batch_size: int,
    more: dict[str, Any],
) -> dict[str, Any]:
    metrics, per_class = predictions.metrics(), predictions.per_class()
    path = folder.path / WEIGHTS
    weights.save(network, path, metrics=metrics, evaluation={"split": "test", "batch_size": batch_size})
    write_mistakes(folder.path, mistakes)
    log_mistakes(loggers, mistakes, per_class, "test")
    by_class = dict(zip(mistakes.classes, per_class, strict=True))
    counted = profile(network)
    costs = {"parameters": counted.parameters, "multiply_adds": counted.multiply_adds}
    log_metrics(loggers, "test", metrics, more["steps"])
    log_costs(loggers, costs, more["steps"])
    return STAGE.finish(folder, loggers, "test", metrics, by_class, costs=costs, **more)


def open_both(data: ImageDataConfig) -> tuple[ImageSet, ImageSet]:
    """Images for training and for evaluation. Raises ValueError unless they have the same classes."""
    train, test = open_images(data, "train"), open_images(data, "test")
    if train.classes != test.classes:
        odd = sorted({*train.classes} ^ {*test.classes})[0]
        raise ValueError(f"{train.source} and {test.source} have different classes: only one has {odd}")
    return train, test


def _build_network(config: ClassificationConfig, classes: list[str]) -> Classifier:
    recipe, data = config.recipe, config.data
    options: dict[str, Any] = {
        "drop_path_keep": recipe.drop_path_keep,
        "dropout": recipe.dropout,
        "auxiliary": recipe.auxiliary_weight > 0,
        "head_init": recipe.head_init,
    }
    if config.init is not None:
        network = start_from(config.init, classes, **options)
    else:
        with under("backbone"):
            spec = config.backbone.spec()
        network = build(spec, len(classes), **options)
        network.preprocessing = replace(network.preprocessing, mean=tuple(data.mean), std=tuple(data.std))
    network.classes = classes
    crop = 1.0 if data.is_resident else data.eval_crop
    network.preprocessing = replace(network.preprocessing, crop=crop)
    prepare_network(config.trainer, network)
    return network


def _tell(config: ClassificationConfig, network: Classifier, images: int) -> None:
    side, recipe = network.preprocessing.size, config.recipe
    log.info(
        "%s, %s, %s of %s; images of %d x %d px; learning rate %.4g",
        counted(images, "training image"),
        counted(network.num_classes, "class", "classes"),
        counted(recipe.epochs, "epoch"),
        counted(config.plan().steps_per_epoch(images), "step"),
        *(side, side, recipe.scaled_lr),
    )


def _build_module(
    config: ClassificationConfig, network: Classifier, steps_per_epoch: int
) -> ClassificationModule:
    recipe = config.recipe
    log_rate(recipe.lr, recipe.scaled_lr, recipe.batch_size, recipe.reference_batch_size)
    if config.plan().images_per_pass != config.plan().batch_size:
        log.info("%s", config.plan())
    mixing = None
    if recipe.mixup_alpha or recipe.cutmix_alpha:
        mixing = Mixing(recipe.mixup_alpha, recipe.cutmix_alpha, network.num_classes, config.seed)
    return ClassificationModule(
        network,
        classification_loss(recipe.label_smoothing, recipe.auxiliary_weight),
        partial(build_optimizer, recipe),
        lambda optimizer: build_schedule(recipe, optimizer, steps_per_epoch),
        mixing,
        train_forward=compiled(config.trainer, training_forward(network)),
        channels_last=config.trainer.channels_last,
    )


def _train_loader(
    config: ClassificationConfig,
    images: ImageSet,
    preprocessing: Preprocessing,
    device: torch.device,
    rank: int,
) -> ResumableLoader:
    recipe, data, seed = config.recipe, config.data, config.seed
    augment = None
    if recipe.rand_augment:
        augment = RandAugment(recipe.rand_augment, recipe.rand_augment_magnitude, seed)
    if data.is_resident:
        resident = DeviceImages.from_config(
            images, data, preprocessing.size, device, cutout=recipe.cutout, rand_augment=augment
        )
        batches = DeviceBatches(resident, seed, train=True)
        return training_loader(batches, config.plan(), seed=seed, rank=rank)
    decoded = DecodedImages(
        images,
        preprocessing,
        train=True,
        seed=seed,
        area_min=data.crop_area_min,
        flip=data.flip,
        color_jitter=data.color_jitter,
        rand_augment=augment,
    )
    return training_loader(decoded, config.plan(), seed=seed, rank=rank, workers=data.workers, collate=stack)
