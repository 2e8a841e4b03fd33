"""Metrics and mistakes of a network on labelled images."""

import json
import logging
import math
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loggers import Logger

from backbones import weights
from backbones.base import Classifier
from backbones.image_transforms import normalise
from backbones.metadata import read_metadata
from backbones.spec import Preprocessing
from backbones.statistics import batch_norm_momentum
from backbones.words import counted
from classification.config import BATCH_SIZE, EvaluateConfig, ImageDataConfig
from classification.data import ImageSet, open_images
from classification.decoded_images import DecodedImages, stack
from classification.device_images import DeviceBatches, DeviceImages
from classification.mistakes import MATRIX_CLASSES, PAIRS, Mistakes, find_mistakes, picture, write_mistakes
from classification.predictions import Predictions
from runtime.device import resolve_device
from runtime.finite import NonFiniteError
from runtime.folder import finish_evaluation, record_evaluation
from runtime.loading import ResumableLoader
from runtime.progress import track
from runtime.stage import evaluation_folder, evaluation_loggers
from runtime.tracking import log_confusion, log_images, log_table

log = logging.getLogger(__name__)


def run(config: EvaluateConfig) -> dict[str, Any]:
    """Prints and returns the content of a `metrics.json`; with the training's data, that of the training."""
    device = resolve_device(config.device)
    with evaluation_folder(config, "classification") as folder:
        return _run(config, device, folder)


def _run(config: EvaluateConfig, device: torch.device, folder: Path | None) -> dict[str, Any]:
    network = weights.load(config.weights)
    images = open_images(config.data, config.split)
    check_classes(config.weights, network, images)
    batch_size = config.batch_size or stored_batch_size(config.weights)
    loader = evaluation_loader(images, config.data, network.preprocessing, device, batch_size)
    predictions = evaluate(network, loader, device)
    metrics, per_class = predictions.metrics(), predictions.per_class()
    content = {
        "stage": "classification",
        "split": config.split,
        "metrics": metrics,
        "per_class": dict(zip(images.classes, per_class, strict=True)),
    }
    print(json.dumps(content, indent=2))
    if folder is not None:
        mistakes = find_mistakes(predictions, images)
        record_evaluation(folder, config)
        write_mistakes(folder, mistakes)
        with evaluation_loggers(config, folder, config.split, metrics) as loggers:
            log_mistakes(loggers, mistakes, per_class, config.split)
        finish_evaluation(folder, content)
    return content


def log_mistakes(
    loggers: Sequence[Logger], mistakes: Mistakes, per_class: Sequence[float | None], split: str
) -> None:
    """Hands confusion, accuracy by class and the worst images to wandb where it is used."""
    names = mistakes.classes
    if len(names) <= MATRIX_CLASSES:
        log_confusion(loggers, f"{split}/confusion", names, mistakes.matrix())
    pairs = [[names[a], names[b], n, share] for a, b, n, share in mistakes.pairs(PAIRS)]
    log_table(loggers, f"{split}/confused", ["true", "predicted", "images", "share of the true class"], pairs)
    accuracies = [list(pair) for pair in zip(names, per_class, strict=True)]
    log_table(loggers, f"{split}/per_class", ["class", "accuracy"], accuracies)
    worst = [
        (
            picture(one.data_uri),
            f"{one.image}: {names[one.label]} ({one.probability_of_label:.1%}), "
            f"taken for {names[one.predicted]} ({one.probability:.1%})",
        )
        for one in mistakes.worst
    ]
    log_images(loggers, f"{split}/worst", worst)


def stored_batch_size(path: str) -> int:
    """Images per forward pass of the evaluation that a weights file's metrics are of."""
    evaluation = read_metadata(path, "backbone").get("evaluation") or {}
    return int(evaluation.get("batch_size", BATCH_SIZE))


def check_classes(path: str, network: Classifier, images: ImageSet) -> None:
    """Raises ValueError that names the first class in which the weights and the data differ.

    Weights without names, such as those of another package, need as many classes as the data have."""
    ours, theirs = network.classes, images.classes
    if ours is None and network.num_classes == len(theirs):
        log.warning("%s names no classes: they are taken to be those of %s, in order", path, images.source)
        return
    if ours is None:
        raise ValueError(
            f"{path} has {counted(network.num_classes, 'class', 'classes')} without names, "
            f"{images.source} has {len(theirs)}"
        )
    if ours != theirs:
        place = next(i for i, pair in enumerate(zip_longest(ours, theirs)) if pair[0] != pair[1])
        first, second = (repr(names[place]) if place < len(names) else "none" for names in (ours, theirs))
        raise ValueError(
            f"{path} was trained on {counted(len(ours), 'class', 'classes')}, {images.source} has "
            f"{len(theirs)}; the first that differs is class {place}: {first} there, {second} here"
        )


def evaluation_loader(
    images: ImageSet,
    config: ImageDataConfig,
    preprocessing: Preprocessing,
    device: torch.device,
    batch_size: int,
) -> ResumableLoader:
    """All images once, in order, as the network was trained to see them."""
    options: dict[str, Any] = {"seed": 0, "shuffle": False}
    if config.is_resident:
        resident = DeviceImages.from_images(
            images,
            None,
            device,
            size=preprocessing.size,
            mean=preprocessing.mean,
            std=preprocessing.std,
            crop_padding=0,
        )
        return ResumableLoader(DeviceBatches(resident, seed=0, train=False), batch_size, **options)
    decoded = DecodedImages(images, preprocessing, train=False)
    return ResumableLoader(decoded, batch_size, workers=config.workers, collate=stack, **options)


@torch.inference_mode()
def evaluate(network: Classifier, batches: ResumableLoader, device: torch.device) -> Predictions:
    """A network, which is left on `device` in evaluation mode and channels_last, on all images of a loader.

    Raises NonFiniteError where the loss is not finite.
    """
    # In whatever layout it was trained: another one rounds otherwise.
    network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    found = []
    with track(len(batches.dataset), "evaluation", images_per_unit=1) as progress:
        for images, labels in batches:
            logits = network(normalise(images.to(device), network.preprocessing))
            found.append(Predictions.of_batch(logits, labels.to(device)))
            progress.advance(len(labels))
    predictions = Predictions.join(network.num_classes, found)
    if not math.isfinite(loss := predictions.metrics()["loss"]):
        raise NonFiniteError(
            f"the loss in evaluation is {loss}: the outputs overflow, most likely because the batch-norm "
            "statistics, which only evaluation uses, are far from the activations'; the training was too "
            f"short for batch_norm_momentum = {batch_norm_momentum(network):g}"
        )
    return predictions
