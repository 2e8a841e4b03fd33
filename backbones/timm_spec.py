"""Names and specs of timm's networks; timm itself is imported in `timm_backbone.py`."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from backbones.files import convert_json
from backbones.ranges import KEY, ConfigError, require
from backbones.words import clipped
from celltransfer import not_installed

TIMM = "timm/"
"""What a name of timm begins with here."""

_INSTEAD: Mapping[str, str] = {
    "in_chans": "give in_channels",
    "img_size": "give image_size",
    "bn_momentum": "give batch_norm_momentum",
    "num_classes": "it is num_classes of create, not of the spec",
    "drop_rate": "give dropout",
    "drop_path_rate": "give drop_path_keep, 1 minus the rate",
    "pretrained": "load timm's weights into net.body",
    "checkpoint_path": "load the weights into net.body",
    "features_only": "net.features gives the maps",
    "out_indices": "net.features gives the maps by name",
}
"""Arguments of `timm.create_model` that keys of ours set, or that a weights file could not repeat."""


@dataclass(frozen=True)
class TimmSpec:
    """A network of timm up to its weights and classes.

    timm: its name there, such as `resnet18`. image_size: side in pixels; None: what timm says of the network.
    batch_norm_momentum: in PyTorch's sense; None: what timm builds. arguments: further keyword arguments of
    `timm.create_model`, as JSON values; those that keys of ours set are refused.

    Raises ValueError that names the field. Whether timm knows the name shows when the network is built.
    """

    timm: str
    image_size: int | None = None
    in_channels: int = 3
    batch_norm_momentum: float | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.timm:
            raise ConfigError(f"{KEY}timm = {clipped(self.timm)}, expected a name of timm")
        for key in ("image_size", "in_channels"):
            value = getattr(self, key)
            if not (value is None and key == "image_size") and (not isinstance(value, int) or value < 1):
                raise ConfigError(f"{KEY}{key} = {clipped(value)}, must be a whole number from 1 on")
        require(self, "batch_norm_momentum", above=0, most=1)
        for key, value in self.arguments.items():
            if key in _INSTEAD:
                raise ValueError(
                    f"{key} = {clipped(value)} is not taken as an argument of timm: {_INSTEAD[key]}"
                )
            try:
                json.dumps(value, allow_nan=False)
            except (TypeError, ValueError):
                raise ValueError(
                    f"{key} = {clipped(value)} cannot be written into a weights file, expected a JSON value"
                ) from None

    @property
    def default_classes(self) -> int:
        return 1000

    @classmethod
    def from_name(cls, name: str, **overrides: Any) -> "TimmSpec":
        """name: `timm/resnet18`. overrides: fields; any other key is an argument of `timm.create_model`."""
        fields = {"image_size", "in_channels", "batch_norm_momentum"}
        own = {key: value for key, value in overrides.items() if key in fields}
        arguments = {key: value for key, value in overrides.items() if key not in fields}
        return cls(name.removeprefix(TIMM), **own, arguments=arguments)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any], where: str = "network") -> "TimmSpec":
        """Reads `to_dict`'s form. where: file and key for the message. Raises ValueError."""
        return convert_json(value, cls, f"{where}.", defaults=True)


def without_timm(error: ImportError) -> ModuleNotFoundError:
    return not_installed("a network of timm", "timm", "timm", error)


def timm_extras(name: str | None) -> dict[str, str]:
    """The `extras()` of a choice that a network's name stands for: see `runtime.config.check_extras`."""
    return {"timm": "timm"} if name is not None and name.startswith(TIMM) else {}
