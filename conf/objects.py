"""From a composed configuration to the dataclasses that check it."""

from typing import Any

from omegaconf import DictConfig, OmegaConf

from backbones.ranges import under


def to_objects(config: DictConfig) -> Any:
    """The root dataclass of a composed configuration, with all below it.

    Raises ConfigError for a value that a dataclass refuses; its message names the whole key."""
    _check(config)
    return OmegaConf.to_object(config)


def _check(config: DictConfig) -> None:
    """Makes each dataclass alone, the innermost first: OmegaConf does not tell which one refused.

    A part that stands elsewhere, such as the chain's data in its stages, is checked under the key there."""
    for name in config:
        if not OmegaConf.is_missing(config, name) and isinstance(part := config[name], DictConfig):
            _check(part)
    with under(config._get_full_key(None)):
        OmegaConf.to_object(config)
