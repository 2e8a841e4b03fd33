"""A training run that starts from a trained detector, of the same classes or others: `init=FILE`."""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from backbones.ranges import KEY, ConfigError
from backbones.words import counted, printable
from detection.data.coco_file import CategoryEntry
from detection.detector import Detector
from detection.engines.base import Engine
from detection.engines.config import EngineConfig
from runtime.folder import plain
from runtime.overrides import override

log = logging.getLogger(__name__)

SCORES = ("box_head.class_logits.", "roi_heads.box_predictor.cls_score.")
"""Prefixes of the layer with a row for each class and a last one for the background, in both engines."""
DELTAS = ("box_head.box_deltas.", "roi_heads.box_predictor.bbox_pred.")
"""Of the layer with four rows for each class."""
SHAPES = (
    *("fpn_channels", "rpn_channels", "width", "pooled_size", "crop_size", "anchor_sizes", "aspect_ratios"),
)
"""Keys of a detector that the weights depend on: sizes of layers, and what anchors are."""


def load_start(path: str) -> Detector:
    """The detector to start from. Raises as `Detector.load` does, and ValueError for one with group norm."""
    start = Detector.load(path, "cpu")
    if start.group_norm:
        raise ValueError(
            f"{path} was trained with group norm, which a training from weights does not support"
        )
    return start


def check_same_detector(path: str, start: EngineConfig, asked: EngineConfig) -> None:
    """Raises ConfigError, with the words to type, unless the weights of `start` mean the same in `asked`."""
    if start.name != asked.name:
        raise ConfigError(
            f"{KEY}init = {path} is {KEY}detector={start.name}, asked for is {asked.name}; convert it "
            "(python -m detection.convert) or set the former"
        )
    theirs, ours = _leaves(plain(start)), _leaves(plain(asked))
    words = [
        override(f"detector.{key}", value)
        for key, value in theirs.items()
        if key.rpartition(".")[2] in SHAPES and value != ours[key]
    ]
    if words:
        raise ConfigError(f"{KEY}init = {path} is of another detector; type its keys: {' '.join(words)}")


def _leaves(config: dict, prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in config.items():
        found |= _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def take_over(engine: Engine, categories: Sequence[CategoryEntry], start: Detector, path: str) -> None:
    """Copies all weights of `start`, except those of classes that only one of both has, and logs which.

    engine: newly built for `categories`, with a backbone of the same network. Raises ValueError that names a
    weight of another shape."""
    ours = [category.name for category in categories]
    theirs = [category.name for category in start.categories]
    pairs = [(ours.index(name), theirs.index(name)) for name in ours if name in theirs]
    state, given = engine.state_dict(), start.engine.state_dict()
    for name, tensor in state.items():
        if name.startswith(SCORES):
            _copy_rows(tensor, given[name], [*pairs, (len(ours), len(theirs))])
        elif name.startswith(DELTAS):
            _copy_rows(tensor.unflatten(0, (-1, 4)), given[name].unflatten(0, (-1, 4)), pairs)
        elif name not in given or given[name].shape != tensor.shape:
            there = tuple(given[name].shape) if name in given else "no such weight"
            raise ValueError(f"{path}: {name} has {there}, expected {tuple(tensor.shape)}")
        else:
            tensor.copy_(given[name])
    kept = [name for name in ours if name in theirs]
    fresh = [name for name in ours if name not in theirs]
    log.info(
        "starting from %s: the weights of %s are kept (%s)%s",
        path,
        f"{len(kept)} of {counted(len(ours), 'class', 'classes')}",
        printable(", ".join(kept)) or "none",
        f", those of {printable(', '.join(fresh))} are fresh" if fresh else "",
    )


@torch.no_grad()
def _copy_rows(target: Tensor, source: Tensor, pairs: Sequence[tuple[int, int]]) -> None:
    for own, other in pairs:
        target[own] = source[other]
