"""From a composed configuration to the dataclasses that check it."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from backbones.ranges import KEY, LARGEST_INT, ConfigError, under
from conf.refusals import unknown_key

LARGEST_FLOAT = 3.4028234e38
"""Of 32 bits, in which networks compute."""


class _TooLargeError(ConfigError):
    """A number that its key may allow, but that no tensor can hold."""


def to_objects(config: DictConfig) -> Any:
    """The root dataclass of a composed configuration, with all below it.

    Raises ConfigError for a key that no dataclass has or that is not set, a reference to nothing, a number
    that is not finite or too large, and a value that a dataclass refuses; its message names the whole key."""
    _check(config)
    made = OmegaConf.to_object(config)
    _keep_references(config, made)
    return made


def check_set(config: DictConfig) -> None:
    """Raises ConfigError for the first key that has no default and was not given."""
    with under(config._get_full_key(None)):
        for key in config:
            if key != "hydra" and OmegaConf.is_missing(config, key):
                raise ConfigError(f"{KEY}{key!s} is not set and has no default")


def value_of(config: DictConfig, key: Any) -> Any:
    """What stands under a key. Raises ConfigError where it refers, as `${a}/x` does, to what is not there."""
    try:
        return config[key]
    except InterpolationResolutionError as error:
        written: Any = config._get_node(key)
        raise ConfigError(f"{KEY}{key!s} = {written._value()}: {str(error).splitlines()[0]}") from None


def _keep_references(config: DictConfig, made: Any) -> None:
    """Writes back references that a dataclass wants as such: its `references` name, for a field, the others.

    made: what `config` has become."""
    for field, others in getattr(made, "references", {}).items():
        named = {id(_meant(config, other)): other for other in others if other in config}
        if isinstance(node := _meant(config, field), DictConfig | ListConfig):
            _write_back(node, getattr(made, field), named)
    for field in dataclasses.fields(made) if dataclasses.is_dataclass(made) else ():
        part = None if OmegaConf.is_missing(config, field.name) else config[field.name]
        if isinstance(part, DictConfig):
            _keep_references(part, getattr(made, field.name))


def _write_back(node: DictConfig | ListConfig, made: Any, named: Mapping[int, str]) -> None:
    """named: fields by the identity of the nodes that hold them."""
    for key in range(len(node)) if isinstance(node, ListConfig) else list(node):
        inner: Any = node._get_node(key)
        if inner._is_interpolation():
            path: list[str] = []
            target = _meant(node, key)
            while target is not None and id(target) not in named:
                path.insert(0, str(target._key()))
                target = target._get_parent()
            if target is not None:
                made[key] = f"${{{'.'.join([named[id(target)], *path])}}}"
        elif isinstance(inner, DictConfig | ListConfig):
            _write_back(inner, made[key], named)


def _meant(node: DictConfig | ListConfig, key: Any) -> Any:
    """The node under a key, or the one that it refers to."""
    inner: Any = node._get_node(key)
    return inner._dereference_node()


def _check(config: DictConfig) -> None:
    """Makes each dataclass alone, the innermost first: OmegaConf does not tell which one refused.

    A part that stands elsewhere, such as the chain's data in its stages, is checked under the key there."""
    kind, here, root = OmegaConf.get_type(config), config._get_full_key(None), config._get_root()
    if dataclasses.is_dataclass(kind):
        names = {field.name for field in dataclasses.fields(kind)}
        for name in map(str, config):
            if name not in names and isinstance(root, DictConfig):
                raise ConfigError(unknown_key(f"{here}.{name}" if here else name, root))
    check_set(config)
    with under(here):
        known = {key: value_of(config, key) for key in config}
    parts = {key: value for key, value in known.items() if isinstance(value, DictConfig)}
    # Before the parts, whose values may be references to these.
    for key in (key for key in known if key not in parts):
        node: Any = config._get_node(key)
        other = ", or null" if node._is_optional() else ""
        if not dataclasses.is_dataclass(kind) and isinstance(known[key], float):
            # Of any type, such as an argument of the user's own evaluator.
            other += f"; for the text type \"'{known[key]}'\""
        try:
            with under(here):
                _check_number(str(key), known[key], other)
        except _TooLargeError as error:
            raise _own_rule(config, here, f"{here}.{key!s}".lstrip(".")) or error from None
    for part in parts.values():
        _check(part)
    with under(here):
        OmegaConf.to_object(config)


def _own_rule(config: DictConfig, here: str, key: str) -> ConfigError | None:
    """What the dataclass of `config` itself has against the value of a key, which no tensor can hold."""
    try:
        with under(here):
            OmegaConf.to_object(config)
    except ConfigError as error:
        return error if str(error).startswith(f"{key} = ") else None
    except Exception:  # of a dataclass that reckons with such a number
        return None
    return None


def _check_number(key: str, value: Any, null: str) -> None:
    """Raises ConfigError for a number, or one in a list, that is not finite or that no tensor can hold."""
    if isinstance(value, ListConfig | list):
        for index, each in enumerate(value):
            _check_number(f"{key}[{index}]", each, "")
    elif isinstance(value, float) and not abs(value) <= LARGEST_FLOAT:
        if not math.isfinite(value):
            raise ConfigError(f"{KEY}{key} = {value}, must be finite{null}")
        rule = f"at most {LARGEST_FLOAT}" if value > 0 else f"at least -{LARGEST_FLOAT}"
        raise _TooLargeError(f"{KEY}{key} = {value}, must be {rule}{null}")
    elif isinstance(value, int) and not -LARGEST_INT - 1 <= value <= LARGEST_INT:
        rule = f"at most {LARGEST_INT}" if value > 0 else f"at least {-LARGEST_INT - 1}"
        raise _TooLargeError(f"{KEY}{key} = {value}, must be {rule}{null}")
