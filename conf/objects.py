"""From a composed configuration to the dataclasses that check it."""

import dataclasses
import math
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from backbones.ranges import KEY, ConfigError, under
from conf.refusals import unknown_key

LARGEST_FLOAT = 3.4028234e38
"""Of 32 bits, in which networks compute."""
LARGEST_INT = 2**63 - 1
"""Of 64 bits, which generators, files and tensors take."""


def to_objects(config: DictConfig) -> Any:
    """The root dataclass of a composed configuration, with all below it.

    Raises ConfigError for a key that no dataclass has, a number that is not finite or too large, and a value
    that a dataclass refuses; its message names the whole key."""
    _check(config)
    return OmegaConf.to_object(config)


def _check(config: DictConfig) -> None:
    """Makes each dataclass alone, the innermost first: OmegaConf does not tell which one refused.

    A part that stands elsewhere, such as the chain's data in its stages, is checked under the key there."""
    kind, here, root = OmegaConf.get_type(config), config._get_full_key(None), config._get_root()
    if dataclasses.is_dataclass(kind):
        names = {field.name for field in dataclasses.fields(kind)}
        for name in map(str, config):
            if name not in names and isinstance(root, DictConfig):
                raise ConfigError(unknown_key(f"{here}.{name}" if here else name, root))
    known = {key: config[key] for key in config if not OmegaConf.is_missing(config, key)}
    parts = {key: value for key, value in known.items() if isinstance(value, DictConfig)}
    # Before the parts, whose values may be references to these.
    for key in (key for key in known if key not in parts):
        node: Any = config._get_node(key)
        with under(here):
            _check_number(str(key), known[key], ", or null" if node._is_optional() else "")
    for part in parts.values():
        _check(part)
    with under(here):
        OmegaConf.to_object(config)


def _check_number(key: str, value: Any, null: str) -> None:
    """Raises ConfigError for a number, or one in a list, that is not finite or that no tensor can hold."""
    if isinstance(value, ListConfig | list):
        for index, each in enumerate(value):
            _check_number(f"{key}[{index}]", each, "")
    elif isinstance(value, float) and not abs(value) <= LARGEST_FLOAT:
        rule = "finite" if not math.isfinite(value) else f"within +-{LARGEST_FLOAT}"
        raise ConfigError(f"{KEY}{key} = {value}, must be {rule}{null}")
    elif isinstance(value, int) and not -LARGEST_INT - 1 <= value <= LARGEST_INT:
        raise ConfigError(f"{KEY}{key} = {value}, must be in {-LARGEST_INT - 1}..{LARGEST_INT}{null}")
