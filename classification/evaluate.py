"""Metrics of a network on labelled images: `python -m classification.evaluate weights=FILE data=... `."""

import json
import logging
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from backbones import weights
from backbones.base import Backbone
from backbones.files import write_json
from backbones.spec import Preprocessing
from backbones.statistics import batch_norm_momentum
from backbones.transforms import normalise
from classification.data import ImageDataConfig, ImageSet, open_images
from classification.decoded_images import DecodedImages, stack
from classification.device_images import DeviceBatches, DeviceImages
from classification.metrics import ClassificationSums
from runtime.device import resolve_device
from runtime.finite import NonFiniteError
from runtime.loading import ResumableLoader
from runtime.progress import track

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class EvaluateConfig:
    """Which weights, on which images."""

    weights: str
    """A `backbone.safetensors`."""
    data: ImageDataConfig
    split: str = "test"
    """`test` or `train`."""
    batch_size: int = 256
    """Images per forward pass."""
    device: str = "auto"
    """`auto` (cuda where there is one, else cpu), `cpu`, `cuda` or `cuda:<number>`."""
    threads: int | None = None
    """Threads of PyTorch on CPU; None: PyTorch's choice."""
    output: str | None = None
    """Where to write the metrics as JSON; None: only printed."""

    def __post_init__(self) -> None:
        resolve_device(self.device)
        for key in ("batch_size", "threads"):
            if (value := getattr(self, key)) is not None and value < 1:
                raise ValueError(f"{key} = {value}, must be at least 1")
        if self.split not in ("test", "train"):
            raise ValueError(f"split = {self.split!r}, must be train or test")


def run(config: EvaluateConfig) -> dict[str, Any]:
    """Prints and returns the content of a `metrics.json`; with the training's data, that of the training."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    network = weights.load(config.weights)
    images = open_images(config.data, config.split)
    if images.classes != network.classes:
        raise ValueError(
            f"{config.weights} was trained on the classes {_shown(network.classes)}, "
            f"but {images.source} has {_shown(images.classes)}"
        )
    device = resolve_device(config.device)
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    loader = evaluation_loader(images, config.data, network.preprocessing, device, config.batch_size)
    sums = evaluate(network, loader, device)
    content = {
        "stage": "classification",
        "split": config.split,
        "metrics": sums.metrics(),
        "per_class": dict(zip(images.classes, sums.per_class(), strict=True)),
    }
    print(json.dumps(content, indent=2))
    if config.output is not None:
        write_json(config.output, content)
    return content


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
def evaluate(network: Backbone, batches: ResumableLoader, device: torch.device) -> ClassificationSums:
    """Cross entropy (without smoothing) and accuracy of a network, which is left in evaluation mode.

    Raises NonFiniteError where the loss is not finite.
    """
    network.eval()
    sums = ClassificationSums(network.num_classes)
    with track(len(batches), "evaluation") as progress:
        for images, labels in batches:
            labels = labels.to(device)
            logits = network(normalise(images.to(device), network.preprocessing))
            sums.add(logits, labels, functional.cross_entropy(logits, labels))
            progress.advance()
    if not math.isfinite(loss := sums.metrics()["loss"]):
        raise NonFiniteError(
            f"the loss in evaluation is {loss}: the outputs overflow, most likely because the batch-norm "
            "statistics, which only evaluation uses, are far from the activations'; the training was too "
            f"short for backbone.batch_norm_momentum = {batch_norm_momentum(network):g}"
        )
    return sums


def _shown(classes: list[str] | None) -> str:
    if classes is None:
        return "(none recorded)"
    return f"[{', '.join(classes[:10])}{', ...' if len(classes) > 10 else ''}] ({len(classes)})"


if __name__ == "__main__":
    from classification.evaluate import run  # Hydra knows the classes of this name, not those of __main__
    from conf.app import main

    main("classification_evaluate", run)
