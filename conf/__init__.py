"""Hydra's configuration: the tree of YAML files here, and the dataclasses that give every key its type.

A dataclass lives beside the class it configures and checks its own ranges; this module only names it for
Hydra. Choices that are all defaults exist as dataclasses alone; those with values of their own are YAML files
that start from the group's `schema`.
"""

from collections.abc import Mapping
from typing import Any

from hydra.core.config_store import ConfigStore


def register() -> None:
    """Makes every root configuration and every choice known to Hydra. Harmless when called twice."""
    store = ConfigStore.instance().store
    for name, node in _roots().items():
        store(name=f"{name}_schema", node=node)
    for group, choices in _choices().items():
        for name, node in choices.items():
            store(group=group, name=name, node=node)


def _roots() -> Mapping[str, Any]:
    import classification.evaluate
    import classification.train
    import detection.evaluate
    import detection.train
    import pipeline.chain
    import search.runner

    return {
        "search": search.runner.SearchConfig,
        "classification": classification.train.ClassificationConfig,
        "classification_evaluate": classification.evaluate.EvaluateConfig,
        "detection": detection.train.DetectionConfig,
        "detection_evaluate": detection.evaluate.EvaluateConfig,
        "pipeline": pipeline.chain.PipelineConfig,
    }


def _choices() -> Mapping[str, Mapping[str, Any]]:
    from backbones.zoo import ZOO, BackboneConfig
    from classification.data import ImageDataConfig
    from classification.optimizers import RecipeConfig
    from detection.data import CocoDataConfig
    from detection.engines.registry import ENGINES
    from detection.recipe import DetectionRecipe
    from detection.scenes import ScenesDataConfig
    from runtime.tracking import KINDS, LoggerConfig
    from runtime.trainer import TrainerConfig
    from search.executors import InlineConfig
    from search.strategies import ControllerConfig, RandomConfig

    return {
        "strategy": {"controller": ControllerConfig, "random": RandomConfig},
        "executor": {"inline": InlineConfig},
        "data": {"images_schema": ImageDataConfig, "coco": CocoDataConfig, "scenes": ScenesDataConfig},
        "backbone": {
            "schema": BackboneConfig,
            **{name: BackboneConfig(name=name) for name in ZOO},
        },
        "recipe": {
            "schema": RecipeConfig,
            "nasnet_cifar": RecipeConfig,
            "detectron2_1x": DetectionRecipe(reference_batch_size=16),
        },
        "detector": ENGINES,
        "trainer": {"default": TrainerConfig},
        "logger": {name: LoggerConfig(name=name) for name in KINDS},
    }
