"""What the values of a configuration may be; messages name the key where it stands, as the user typed it."""

import dataclasses
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

from backbones.files import check_output, expanded
from backbones.words import clipped

LARGEST_INT = 2**63 - 1
"""Of 64 bits, which generators, files and tensors take."""
KEY = "\ue000"
"""Stands before each key in the text of a ConfigError: there goes what the refused dataclass stands under."""


class ConfigError(ValueError):
    """A value that a configuration cannot have.

    The text names keys, each after KEY, as the dataclass that refuses them knows them: `lr`, `recipe.lr`.
    Whoever knows under which key that dataclass stands completes them: `error.under("detection")`. As text
    inside another message the keys can no longer be completed."""

    def __init__(self, text: str, prefix: str = "") -> None:
        super().__init__(text, prefix)
        self.text, self.prefix = text, prefix

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def __str__(self) -> str:
        return self.text.replace(KEY, self.prefix)

    def under(self, key: str) -> "ConfigError":
        """The same error of a dataclass that stands under `key`; an empty one changes nothing."""
        return type(self)(self.text, f"{key}.{self.prefix}" if key else self.prefix)


class NoSuchPathError(ConfigError, FileNotFoundError):
    """A value that names what does not exist."""


@contextmanager
def under(key: str) -> Iterator[None]:
    """ConfigErrors in the block are of a dataclass that stands under `key`."""
    try:
        yield
    except ConfigError as error:
        raise error.under(key).with_traceback(error.__traceback__) from None


def existing_folder(value: str | None, key: str, content: str) -> Path:
    """The folder that the value of `key` names. Raises ConfigError where it is None, or NoSuchPathError.

    content: what it holds, for the message."""
    if value is None:
        raise ConfigError(f"{KEY}{key} is not set: the folder of {content}")
    folder = expanded(value)
    if not folder.is_dir():
        raise NoSuchPathError(f"{KEY}{key} = {folder}: no such folder")
    return folder


def writable_folder(value: str, key: str) -> Path:
    """The folder that the value of `key` names, which need not exist. Makes nothing.

    Raises ConfigError where nothing can be written into it."""
    folder = Path(value)
    try:
        check_output(folder, folder=True)
    except ValueError as error:
        raise ConfigError(f"{KEY}{key} = {error}") from None
    return folder


def require(
    config: Any,
    *keys: str,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
    among: Collection[str] | None = None,
    limit: float | None = None,
) -> None:
    """Raises ConfigError for the first of the keys whose value is outside; None is never refused.

    least, most: bounds that a value may have. above, below: bounds that it may not. among: all it may be.
    limit: as `most`, where only a mistake comes near it, so that messages about small values leave it out."""
    for key in keys:
        value = getattr(config, key)
        if value is None:
            continue
        if among is not None:
            if value not in among:
                raise ConfigError(f"{KEY}{key} = {clipped(value)}, expected one of {', '.join(among)}")
        elif not (
            (least is None or value >= least)
            and (above is None or value > above)
            and (most is None or value <= most)
            and (below is None or value < below)
        ):
            told = rule(least, above, most, below)
            raise ConfigError(f"{KEY}{key} = {clipped(value)}, must be {told}{_or_null(config, key)}")
        elif limit is not None and value > limit:
            raise ConfigError(
                f"{KEY}{key} = {clipped(value)}, must be at most {limit}{_or_null(config, key)}"
            )


def _or_null(config: Any, key: str) -> str:
    types = {field.name: field.type for field in dataclasses.fields(config)}
    return ", or null" if type(None) in get_args(types[key]) else ""


def rule(least: float | None, above: float | None, most: float | None, below: float | None) -> str:
    """What a value must be, after `must be`; at least one bound is given."""
    low, high = (least if above is None else above), (most if below is None else below)
    if high is None:
        return f"at least {least}" if above is None else f"above {above}"
    if above is None and below is None:
        return f"in {low}..{high}"
    return f"in {'[' if above is None else '('}{low}, {high}{']' if below is None else ')'}"
