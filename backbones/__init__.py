"""What a genotype is and the network it becomes.

The names below are imported when they are used: a command that needs no tensor imports no torch.
"""

# ruff: noqa: F401 - __all__ is made of _HOMES

import importlib
from typing import TYPE_CHECKING, Any

from celltransfer import refuse_module

if TYPE_CHECKING:
    from backbones.base import Backbone, Classifier, FeatureInfo
    from backbones.config import BackboneConfig
    from backbones.costs import Profile, profile
    from backbones.factory import create
    from backbones.genotype import Block, Cell, Genotype, GenotypeError
    from backbones.image_transforms import transforms
    from backbones.network import NASNet
    from backbones.spec import NetworkSpec, Preprocessing
    from backbones.weights import convert, load, save
    from backbones.zoo import list_models

_HOMES = {
    "base": ("Backbone", "Classifier", "FeatureInfo"),
    "config": ("BackboneConfig",),
    "costs": ("Profile", "profile"),
    "factory": ("create",),
    "genotype": ("Block", "Cell", "Genotype", "GenotypeError"),
    "image_transforms": ("transforms",),
    "network": ("NASNet",),
    "spec": ("NetworkSpec", "Preprocessing"),
    "weights": ("convert", "load", "save"),
    "zoo": ("list_models",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = list(_HOME)

refuse_module(__name__)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return importlib.import_module(f"backbones.{name}")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"backbones.{_HOME[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
