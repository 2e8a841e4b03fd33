"""The detector and the images of a training, built and checked before anything is written."""

import dataclasses
from typing import Any

from torch import nn

from backbones import weights
from backbones.base import Backbone
from backbones.build import build
from backbones.metadata import stored_kind
from backbones.norm import NarrowBatchNorm2d
from backbones.ranges import KEY, ConfigError, under
from backbones.spec import NetworkSpec
from backbones.words import counted
from backbones.zoo import resolve_spec, under_name
from detection.data.coco_file import CategoryEntry
from detection.data.config import SPLITS, CocoDataConfig
from detection.data.images import DetectionImages, open_split
from detection.data.sizing import EvaluationSize
from detection.detector import Detector, check_categories
from detection.engines.base import Engine
from detection.engines.config import C4_STRIDE, C4Config, EngineConfig
from detection.model.norms import FrozenStatistics, freeze_statistics, use_group_norm
from detection.model.stages import check_halves, check_maps, freeze_stages
from detection.training.batch_size import largest_batch
from detection.training.config import BackboneSource
from detection.training.recipe import DetectionRecipe
from detection.training.start import check_same_detector, load_start, take_over
from runtime.config import TrainerConfig
from runtime.trainer import prepare_network, training_device


def build_backbone(source: BackboneSource) -> Backbone:
    """The network without its classifier. Raises ValueError for the cifar stem."""
    if source.weights is not None:
        network = _trained(source.weights)
        if source.from_scratch:
            preprocessing = network.preprocessing
            spec: Any = network.spec
            if source.batch_norm_momentum is not None:
                spec = dataclasses.replace(spec, batch_norm_momentum=source.batch_norm_momentum)
            network = build(spec, num_classes=1)
            network.preprocessing = preprocessing
    else:
        size = {key: value for key, value in source.size().items() if value is not None}
        with under("backbone"), under_name():
            network = build(resolve_spec(str(source.name), **size), num_classes=1)
    if isinstance(network.spec, NetworkSpec) and network.spec.stem == "cifar":
        raise ValueError(
            f"{source.label} has the cifar stem, whose maps are too large for detection "
            "(strides 1, 2, 4): train the classifier with the imagenet stem"
        )
    network.remove_classifier()
    return network


def _trained(path: str) -> Any:
    """The network of a backbone.safetensors or of a detector.safetensors."""
    if stored_kind(path) == "detector":
        return load_start(path).engine.backbone
    return weights.load(path)


def open_images(
    data: CocoDataConfig, seed: int, processes: int
) -> tuple[DetectionImages, DetectionImages, list[CategoryEntry]]:
    """Training and validation images, and their categories.

    Raises ValueError or FileNotFoundError for what cannot be trained on or evaluated with."""
    train, val = _open_both(data, seed)
    if not val.coco.annotated:
        raise ValueError(f"{val.coco.path}: the key 'annotations' is missing, nothing to evaluate with")
    names = zip(train.coco.category_ids, train.coco.category_names, strict=True)
    categories = [CategoryEntry(category, name) for category, name in names]
    check_categories(val.coco, categories)
    if len(val) < processes:
        images = counted(len(val), "image is", "images are")
        raise ValueError(f"{val.coco.path}: {images} fewer than the {processes} processes")
    return train, val, categories


def _open_both(data: CocoDataConfig, seed: int) -> tuple[DetectionImages, DetectionImages]:
    """Raises ValueError or FileNotFoundError that tells the faults of both splits."""
    opened: list[DetectionImages] = []
    faults: list[ValueError | FileNotFoundError] = []
    for split in SPLITS:
        try:
            opened.append(open_split(data, split, seed=seed))
        except ConfigError:
            raise  # of both
        except (ValueError, FileNotFoundError) as error:
            faults.append(error)
    if len(faults) == 1:
        raise faults[0]
    if faults:
        lines = "\n".join(map(str, faults)).splitlines()
        raise ValueError("\n".join(dict.fromkeys(lines)))  # the splits may be one file
    train, val = opened
    return train, val


def build_detector(
    source: BackboneSource,
    config: EngineConfig,
    recipe: DetectionRecipe,
    trainer: TrainerConfig,
    input_size: EvaluationSize,
    categories: list[CategoryEntry],
    init: str | None = None,
) -> Detector:
    """The untrained detector, its backbone checked, frozen and laid out as asked.

    init: a detector.safetensors whose weights it starts from; `source` then takes its backbone. Raises
    ValueError for a backbone that detection cannot use, or a detector of other sizes."""
    start = None if init is None else load_start(init)
    if start is not None:
        check_same_detector(str(init), start.config, config)
    network = build_backbone(source)
    if recipe.norm == "group":
        use_group_norm(network)
    engine = config.build(network, len(categories))
    if start is not None:
        take_over(engine, categories, start, str(init))
    check_maps(network, source.label)
    if isinstance(config, C4Config):
        check_halves(network, source.label, C4_STRIDE)
    if recipe.freezes_statistics(source.pretrained):
        freeze_statistics(engine.backbone)
    if source.freeze_at:
        freeze_stages(network, source.freeze_at)
    if trainer.sync_batch_norm:
        _check_norms(engine.backbone)
    prepare_network(trainer, network)
    return Detector(engine, config, categories, input_size, recipe.norm == "group")


def _check_norms(network: Backbone) -> None:
    """Raises ValueError for norms that Lightning would not synchronise, or not as they are."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms or any(isinstance(norm, FrozenStatistics) for norm in norms):
        raise ConfigError(
            f"{KEY}trainer.sync_batch_norm = true, but the backbone has no batch norm or uses stored "
            f"statistics; leave it false, or set {KEY}recipe.norm=batch and {KEY}backbone.freeze_at=0"
        )
    for norm in norms:
        if type(norm) not in (nn.BatchNorm2d, NarrowBatchNorm2d):
            raise ConfigError(
                f"{KEY}trainer.sync_batch_norm = true would lose what {type(norm).__name__} does besides "
                "normalising; leave it false for this network"
            )


def find_batch_size(
    engine: Engine, recipe: DetectionRecipe, trainer: TrainerConfig, data: CocoDataConfig, images: int
) -> int:
    """`recipe.batch_size = auto` as a number: what one device holds, times the accumulated batches."""
    if images < recipe.accumulate:
        raise ConfigError(
            f"{KEY}recipe.accumulate = {recipe.accumulate} exceeds the {counted(images, 'training image')}"
        )
    height, width = data.training_size.largest()
    found = largest_batch(
        engine,
        training_device(trainer),
        most=images // recipe.accumulate,
        height=height,
        width=width,
        average=recipe.ema_decay is not None,
        precision=trainer.precision,
    )
    return found * recipe.accumulate
