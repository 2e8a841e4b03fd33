"""Hydra's configuration: the tree of YAML files here, and the dataclasses that give every key its type.

The dataclasses lie in the packages, in files that need no tensors, and check their own ranges; this module
only names them for Hydra. Choices that are all defaults exist as dataclasses alone; those with values
of their own are YAML files that start from the group's `schema`. A choice is registered whether or not this
machine can do it; `conf.app` checks that when a run takes it.
"""

import functools
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hydra.errors
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

from celltransfer import refuse_module
from conf.own_data import register_resolvers

refuse_module(__name__)

EXPERIMENTS = Path(__file__).parent / "experiments"
"""`<command>/experiment/<name>.yaml`."""
BORROWED = {"detection_preview": "detection"}
"""Commands that take the experiments of another one."""


class Experiments(SearchPathPlugin):
    """Lets `experiment=NAME` choose among the experiments of one command, and Hydra list no others."""

    command = ""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        folder = EXPERIMENTS / BORROWED.get(self.command, self.command)
        if folder.is_dir():
            # As a folder: for pkg:// Hydra 1.4 wants a package with an __init__.py at each level.
            search_path.prepend("celltransfer", f"file://{folder}")


def register(command: str) -> None:
    """Makes every root configuration, every choice and the command's experiments known to Hydra.

    To be called before Hydra is initialised; harmless when called twice."""
    for name in ("Hydra14MigrationWarning", "Hydra15MigrationWarning"):  # Hydra 1.4 has both; for developers
        if (category := getattr(hydra.errors, name, None)) is not None:
            warnings.simplefilter("ignore", category)
    warnings.filterwarnings("ignore", "(?s).*execution.whitelist")  # which it warns of, too
    warnings.filterwarnings("ignore", "register_new_resolver")  # of OmegaConf 2.4, where 2.3 has no other
    Experiments.command = command
    Plugins.instance().register(Experiments)
    register_resolvers()
    _store_once()
    ConfigStore.instance().store(group="data", name="folder", node=choices(command)["data"]["folder"])


@functools.cache
def _store_once() -> None:
    """Half of what a composition costs, and the same for every command but for `data=folder`."""
    store = ConfigStore.instance().store
    for name, node in roots().items():
        store(name=f"{name}_schema", node=node)
    for group, nodes in choices().items():
        for name, node in nodes.items():
            store(group=group, name=name, node=node)


def roots() -> Mapping[str, Any]:
    """Dataclasses of the commands, by the name of the configuration."""
    import classification.config
    import detection.evaluation.config
    import detection.training.config
    import pipeline.config
    import pipeline.machine.config
    import search.config
    import search.studies_config

    return {
        "search": search.config.SearchConfig,
        "search_rerank": search.studies_config.RerankConfig,
        "search_probe": search.studies_config.ProbeConfig,
        "search_simulate": search.config.SimulateConfig,
        "classification": classification.config.ClassificationConfig,
        "classification_evaluate": classification.config.EvaluateConfig,
        "detection": detection.training.config.DetectionConfig,
        "detection_evaluate": detection.evaluation.config.EvaluateConfig,
        "detection_preview": detection.training.config.PreviewConfig,
        "pipeline": pipeline.config.PipelineConfig,
        "pipeline_machine": pipeline.machine.config.MachineConfig,
    }


def choices(command: str = "") -> Mapping[str, Mapping[str, Any]]:
    """Dataclasses, or objects of them, by group and name.

    `data=folder` is each command's own kind of folder; in a chain, detection's is `labelled_folder`."""
    from backbones.config import BackboneConfig
    from backbones.zoo import ZOO
    from classification.config import ImageDataConfig, RecipeConfig
    from detection.data.config import CocoDataConfig, FolderDataConfig, ScenesDataConfig
    from detection.engines.config import ENGINES
    from detection.training.recipe import DetectionRecipe
    from runtime.config import LOGGERS, LoggerConfig, TrainerConfig
    from search.executors.config import InlineConfig, ProcessConfig, RayConfig
    from search.strategies.config import ControllerConfig, EvolutionConfig, PrimSkipConfig, RandomConfig

    class_folders = ImageDataConfig(name="folder", eval_crop=0.875, workers=4)
    return {
        "strategy": {
            "controller": ControllerConfig,
            "evolution": EvolutionConfig,
            "prim_skip": PrimSkipConfig,
            "random": RandomConfig,
        },
        "executor": {"inline": InlineConfig, "process": ProcessConfig, "ray": RayConfig},
        "data": {
            "images_schema": ImageDataConfig,
            "coco": CocoDataConfig,
            "scenes": ScenesDataConfig,
            "folder": FolderDataConfig if command.startswith("detection") else class_folders,
            "labelled_folder": FolderDataConfig,
        },
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
        "logger": {name: LoggerConfig(name=name) for name in LOGGERS},
    }
