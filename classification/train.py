"""Trains a classifier and writes `backbone.safetensors` and `metrics.json`."""

import logging
import random
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.loggers import Logger

from backbones import weights
from backbones.base import Classifier, training_forward
from backbones.build import build
from backbones.costs import profile
from backbones.spec import Preprocessing
from backbones.statistics import warn_of_slow_statistics
from classification.config import ClassificationConfig, ImageDataConfig
from classification.data import ImageSet, open_images
from classification.decoded_images import DecodedImages, stack
from classification.device_images import DeviceBatches, DeviceImages
from classification.evaluation import evaluate, evaluation_loader, log_mistakes
from classification.mistakes import Mistakes, find_mistakes, write_mistakes
from classification.mixing import Mixing
from classification.module import ClassificationModule, DropPathSchedule, classification_loss
from classification.optimizers import ExponentialAverage, L2Gradient, build_optimizer, build_schedule
from classification.predictions import Predictions
from classification.rand_augment import RandAugment
from runtime.finite import NonFiniteError
from runtime.folder import RunFolder, plain
from runtime.launch import launched_rank
from runtime.loading import ResumableLoader
from runtime.progress_callback import ProgressCallback
from runtime.random import counter_hash
from runtime.tracking import build_loggers, finish, log_artifact
from runtime.trainer import build_trainer, check_machine, compiled, last_checkpoint, prepare_network

log = logging.getLogger(__name__)

STAGE = "classification"
MAY_CHANGE = ("trainer", "data.root", "data.download", "data.workers", "validate_every_epochs")


def run(config: ClassificationConfig) -> dict[str, Any]:
    """Trains, or continues, or returns at once what a finished run's `metrics.json` holds.

    Of several processes the first one writes and returns that, the others return nothing.
    Raises ValueError or FileNotFoundError for anything wrong with data, network or folder, before training.
    """
    if RunFolder(Path(config.run_dir)).finished() is None:
        return _train(config)
    if launched_rank():
        return {}
    folder = RunFolder.open(config.run_dir, config, stage=STAGE, may_change=MAY_CHANGE)
    return folder.finished() or _train(config)


def _train(config: ClassificationConfig) -> dict[str, Any]:
    check_machine(config.trainer)
    _seed(config.seed)
    train_images, test_images = _open_both(config.data)
    network = _build_network(config, train_images.classes)
    recipe = config.recipe
    averaging = [ExponentialAverage(recipe.ema_decay)] if recipe.ema_decay is not None else []
    trainer = build_trainer(
        config.trainer,
        RunFolder(Path(config.run_dir)),
        [],
        [*averaging, L2Gradient(), DropPathSchedule(network), ProgressCallback(STAGE, recipe.batch_size)],
        max_epochs=recipe.epochs,
        gradient_clip_norm=recipe.clip_norm,
        accumulate=recipe.accumulate,
        validate_every_epochs=config.validate_every_epochs,
    )
    device, rank = trainer.strategy.root_device, trainer.global_rank
    if rank:  # dropout and drop path are each rank's own, the weights are of one seed
        _seed(int(counter_hash(config.seed, rank)[0] >> np.uint64(1)))
    train_loader = _train_loader(config, train_images, network.preprocessing, device, rank)
    test_loader = evaluation_loader(
        test_images, config.data, network.preprocessing, device, config.eval_batch_size
    )
    own_test_loader = test_loader.share(rank, config.trainer.processes)
    module = _build_module(config, network, batches_per_epoch=len(train_loader))

    # All that could be refused has been built, so the folder may be written to.
    folder = RunFolder(Path(config.run_dir))
    if not rank:
        folder = RunFolder.open(config.run_dir, config, stage=STAGE, may_change=MAY_CHANGE)
        warn_of_slow_statistics(network, len(train_loader) * recipe.epochs)
        trainer.loggers = build_loggers(config.logger, folder.path, STAGE, plain(config))
    trainer.fit(module, train_loader, own_test_loader, ckpt_path=last_checkpoint(folder), weights_only=True)
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
    return _finish(folder, network, predictions, mistakes, trainer.loggers, config.eval_batch_size)


def _finish(
    folder: RunFolder,
    network: Classifier,
    predictions: Predictions,
    mistakes: Mistakes,
    loggers: Sequence[Logger],
    batch_size: int,
) -> dict[str, Any]:
    metrics, per_class = predictions.metrics(), predictions.per_class()
    path = folder.path / "backbone.safetensors"
    weights.save(network, path, metrics=metrics, evaluation={"split": "test", "batch_size": batch_size})
    write_mistakes(folder.path, mistakes)
    log_mistakes(loggers, mistakes, per_class, "test")
    log_artifact(loggers, path, "backbone")
    finish(loggers)
    costs = profile(network)
    log.info("test images: %s", "  ".join(f"{key} {value:.4g}" for key, value in metrics.items()))
    return folder.finish(
        STAGE,
        "test",
        {**metrics, "parameters": costs.parameters, "multiply_adds": costs.multiply_adds},
        dict(zip(mistakes.classes, per_class, strict=True)),
    )


def _open_both(data: ImageDataConfig) -> tuple[ImageSet, ImageSet]:
    train, test = open_images(data, "train"), open_images(data, "test")
    if train.classes != test.classes:
        odd = sorted({*train.classes} ^ {*test.classes})[0]
        raise ValueError(f"{train.source} and {test.source} have different classes: only one has {odd}")
    return train, test


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _build_network(config: ClassificationConfig, classes: list[str]) -> Classifier:
    recipe, data = config.recipe, config.data
    network = build(
        config.backbone.spec(),
        len(classes),
        drop_path_keep=recipe.drop_path_keep,
        dropout=recipe.dropout,
        auxiliary=recipe.auxiliary_weight > 0,
    )
    network.classes = classes
    network.preprocessing = replace(
        network.preprocessing,
        mean=tuple(data.mean),
        std=tuple(data.std),
        crop=1.0 if data.is_resident else data.eval_crop,
    )
    prepare_network(config.trainer, network)
    return network


def _build_module(
    config: ClassificationConfig, network: Classifier, batches_per_epoch: int
) -> ClassificationModule:
    recipe = config.recipe
    steps_per_epoch = batches_per_epoch // recipe.accumulate
    if recipe.scaled_lr != recipe.lr:
        log.info("learning rate %.4g for %d images per step", recipe.scaled_lr, recipe.batch_size)
    if config.trainer.processes > 1 or recipe.accumulate > 1:
        log.info(
            "%d images per step: %d devices x %d nodes x %d accumulated batches of %d",
            *(recipe.batch_size, config.trainer.devices, config.trainer.num_nodes, recipe.accumulate),
            recipe.batch_size // (recipe.accumulate * config.trainer.processes),
        )
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
    """Batches of one backward pass; what does not fill a whole optimiser step of an epoch is left out."""
    recipe, data, seed = config.recipe, config.data, config.seed
    processes = config.trainer.processes
    batch_size = recipe.batch_size // (recipe.accumulate * processes)
    options: dict[str, Any] = {"seed": seed, "shuffle": True, "drop_last": True, "step": recipe.accumulate}
    options |= {"rank": rank, "world": processes}
    augment = None
    if recipe.rand_augment:
        augment = RandAugment(recipe.rand_augment, recipe.rand_augment_magnitude, seed)
    if data.is_resident:
        resident = DeviceImages.from_config(
            images, data, preprocessing.size, device, cutout=recipe.cutout, rand_augment=augment
        )
        batches = DeviceBatches(resident, seed, train=True)
        return ResumableLoader(batches, batch_size, **options)
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
    return ResumableLoader(decoded, batch_size, workers=data.workers, collate=stack, **options)
