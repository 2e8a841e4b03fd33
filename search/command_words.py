"""A configuration as words of a command, for the commands that are printed to be typed next."""

from collections.abc import Collection, Iterator
from typing import Any

from classification.config import ImageDataConfig
from runtime.folder import plain
from runtime.overrides import override

SET_BY_CHOICE = {
    "digits": ("flip", "crop_padding"),
    "cifar10": ("mean", "std"),
    "fashion_mnist": ("crop_padding", "mean", "std"),
    "imagefolder": ("eval_crop", "workers"),
    "folder": ("eval_crop", "workers"),
}
"""Keys that `data=NAME` sets to other values than the defaults (`conf/data`)."""


def data_words(data: ImageDataConfig | None) -> list[str]:
    """`data=NAME` and what else it takes to have this data; none without data."""
    if data is None:
        return []
    return [override("data", data.name), *_changed("data", data, SET_BY_CHOICE[data.name])]


def group_words(group: str, choice: Any) -> list[str]:
    """Of a choice, such as `executor`: its name, and what differs from its defaults."""
    return [override(group, choice.name), *_changed(group, choice)]


def part_words(config: Any, *parts: str) -> list[str]:
    """What differs from the defaults in some parts of a configuration."""
    return [word for part in parts for word in _changed(part, getattr(config, part))]


def evaluator_words(evaluator: Any) -> list[str]:
    """None without one."""
    return [] if evaluator is None else [override("evaluator", plain(evaluator))]


def _changed(prefix: str, part: Any, always: Collection[str] = ()) -> Iterator[str]:
    default = type(part)()
    for name, value in vars(part).items():
        if name in always or (name != "name" and value != getattr(default, name)):
            yield override(f"{prefix}.{name}", value)
