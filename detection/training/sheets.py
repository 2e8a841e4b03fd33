"""Sheets of a training's images, without the training."""

import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from backbones.ranges import KEY, ConfigError, writable_folder
from backbones.words import counted
from detection.data.config import CocoDataConfig, FolderDataConfig, ScenesDataConfig
from detection.data.images import open_split
from detection.evaluation.preview import sheet, write_sheet
from detection.training.batch_size import kept_batch_size
from detection.training.config import PreviewConfig
from detection.training.recipe import AUTO, DetectionRecipe
from runtime.loading import ResumableLoader
from runtime.yaml_files import read_mapping

log = logging.getLogger(__name__)

T = TypeVar("T")

KINDS: Mapping[Any, type[CocoDataConfig]] = {"folder": FolderDataConfig, "scenes": ScenesDataConfig}
"""Of data, by `data.name`; others are COCO's."""


def run(config: PreviewConfig) -> None:
    """Writes the sheets to `output` and logs where each is and how many images and boxes it has.

    Raises ConfigError for a folder that cannot be written to or holds a run, and ValueError or
    FileNotFoundError for what cannot be trained on."""
    folder = writable_folder(config.output, "output")
    if os.path.lexists(folder / "config.yaml"):
        raise ConfigError(f"{KEY}output = {folder} holds a run; choose another folder")
    if config.run is not None:
        config = _of_run(config, Path(config.run))
    images = open_split(config.data, config.split, seed=config.seed)
    log.info(
        "%s: %s; %s", images.coco.path, counted(len(images), "image"), config.data.size_told(config.split)
    )
    batch = min(_images_per_pass(config.recipe), len(images))
    loader = ResumableLoader(images, batch, seed=config.seed, shuffle=config.split == "train")
    order = loader.order(config.epoch)
    for number in range(config.sheets):
        indices = order[number * config.images : (number + 1) * config.images].tolist()
        if not indices:
            break
        path = folder / f"{config.split}-{number + 1}.jpg"
        drawn = sheet(images, [(config.epoch, index) for index in indices])
        folder.mkdir(parents=True, exist_ok=True)
        write_sheet(path, drawn)
        log.info("%s: %s", path, counted(len(indices), "image"))


def _of_run(config: PreviewConfig, folder: Path) -> PreviewConfig:
    """The same with the data, recipe and seed of a run. Raises ValueError that names the file and the key."""
    path = folder / "config.yaml"
    stored = read_mapping(path, "configuration")
    if not {"data", "recipe", "detector"} <= stored.keys():
        raise ValueError(f"{path}: not the configuration of a detection run")
    name = stored["data"].get("name") if isinstance(stored["data"], dict) else None
    data = _part(path, stored, "data", KINDS.get(name, CocoDataConfig))
    recipe = _part(path, stored, "recipe", DetectionRecipe)
    if recipe.batch_size == AUTO and (kept := kept_batch_size(folder)):
        recipe = replace(recipe, batch_size=kept)
    return replace(config, data=data, recipe=recipe, seed=stored["seed"])


def _part(path: Path, stored: Mapping[str, Any], key: str, kind: type[T]) -> T:
    try:
        return msgspec.convert(stored[key], kind)
    except ValueError as error:
        raise ValueError(f"{path}: {key}: {error}") from None


def _images_per_pass(recipe: DetectionRecipe) -> int:
    """Of one process; with `data.group_by_aspect` they are of one shape. 1 where it is yet to be found."""
    return 1 if recipe.batch_size == AUTO else max(1, recipe.images_per_step // recipe.accumulate)
