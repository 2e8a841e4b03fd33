"""A configuration as words of a command, for the commands that are printed to be typed next."""

from collections.abc import Iterator
from typing import Any

from classification.config import ImageDataConfig
from runtime.folder import plain
from runtime.overrides import override


def data_words(data: ImageDataConfig | None) -> list[str]:
    """`data=NAME` and what differs from the defaults; none without data."""
    return [] if data is None else [override("data", data.name), *_changed("data", data)]


def group_words(group: str, choice: Any) -> list[str]:
    """Of a choice, such as `executor`: its name, and what differs from its defaults."""
    return [override(group, choice.name), *_changed(group, choice)]


def part_words(config: Any, *parts: str) -> list[str]:
    """What differs from the defaults in some parts of a configuration."""
    return [word for part in parts for word in _changed(part, getattr(config, part))]


def evaluator_words(evaluator: Any) -> list[str]:
    """None without one."""
    return [] if evaluator is None else [override("evaluator", plain(evaluator))]


def _changed(prefix: str, part: Any) -> Iterator[str]:
    default = type(part)()
    for name, value in vars(part).items():
        if name != "name" and value != getattr(default, name):
            yield override(f"{prefix}.{name}", value)
