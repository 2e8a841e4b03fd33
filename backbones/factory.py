"""Networks by name, from any genotype or weights file."""

from pathlib import Path
from typing import Any

from backbones import weights
from backbones.base import Classifier
from backbones.build import build
from backbones.spec import NetworkSpec
from backbones.timm_spec import TimmSpec
from backbones.zoo import resolve_spec


def create(
    network: str | Path | NetworkSpec | TimmSpec,
    num_classes: int | None = None,
    *,
    drop_path_keep: float = 1.0,
    dropout: float = 0.0,
    auxiliary: bool = False,
    **overrides: Any,
) -> Classifier:
    """Builds a network with fresh weights, or with those of a weights file.

    network: a name of `list_models()`, a spec, a `genotype.json` (then `cells_per_stage` and `filters` are
        needed among the overrides), a `backbone.safetensors`, which brings its weights and classes, or
        `timm/` and the name of any network of timm.
    num_classes: where None that of the weights file, or 10 with the cifar stem, else 1000.
    overrides: fields of `NetworkSpec`; for timm those of `TimmSpec` and arguments of `timm.create_model`; a
        weights file takes none, its weights fit one network.
    Raises ValueError or FileNotFoundError that names what was wrong, ModuleNotFoundError without timm.
    """
    training: dict[str, Any] = {"drop_path_keep": drop_path_keep, "dropout": dropout, "auxiliary": auxiliary}
    if not isinstance(network, NetworkSpec | TimmSpec) and str(network).endswith(".safetensors"):
        if overrides or num_classes is not None:
            given = ", ".join([*overrides, *(["num_classes"] if num_classes is not None else [])])
            raise ValueError(f"{network}: the weights fit one network, so {given} cannot be changed")
        return weights.load(network, **training)
    return build(resolve_spec(network, **overrides), num_classes, **training)
