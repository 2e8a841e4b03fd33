"""Networks by name, and any genotype or weights file as a network."""

import dataclasses
import difflib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backbones import weights
from backbones.base import Backbone
from backbones.build import TIMM, TimmSpec, build
from backbones.genotype import Genotype
from backbones.published import NASNET_A
from backbones.spec import NetworkSpec

_CIFAR_NORM: dict[str, Any] = {"batch_norm_eps": 1e-5, "batch_norm_momentum": 0.1}
_IMAGENET_NORM: dict[str, Any] = {"batch_norm_eps": 1e-3, "batch_norm_momentum": 0.0003}

# The names give N and the width before the classifier as the paper does: 24 filters of that width are one F.
ZOO: Mapping[str, NetworkSpec] = {
    "nasnet_a_large": NetworkSpec(
        NASNET_A, 6, 168, stem_filters=96, image_size=331, skip_reduction_input=True, **_IMAGENET_NORM
    ),
    "nasnet_a_mobile": NetworkSpec(NASNET_A, 4, 44, stem_filters=32, image_size=224, **_IMAGENET_NORM),
    "nasnet_a_7x1920": NetworkSpec(NASNET_A, 7, 80, stem_filters=96, image_size=299, **_IMAGENET_NORM),
    "nasnet_a_5x1536": NetworkSpec(NASNET_A, 5, 64, stem_filters=96, image_size=299, **_IMAGENET_NORM),
    "nasnet_a_cifar": NetworkSpec(
        NASNET_A, 6, 32, stem="cifar", stem_filters=96, image_size=32, **_CIFAR_NORM
    ),
    "nasnet_a_cifar_large": NetworkSpec(
        NASNET_A, 6, 96, stem="cifar", stem_filters=288, image_size=32, **_CIFAR_NORM
    ),
}


def list_models() -> list[str]:
    """Names that `create` knows."""
    return sorted(ZOO)


def create(
    network: str | Path | NetworkSpec | TimmSpec,
    num_classes: int | None = None,
    *,
    drop_path_keep: float = 1.0,
    dropout: float = 0.0,
    auxiliary: bool = False,
    **overrides: Any,
) -> Backbone:
    """Builds a network with fresh weights, or with those of a weights file.

    network: a name of `list_models()`, a spec, a `genotype.json` (then `cells_per_stage` and `filters` are
        needed among the overrides), a `backbone.safetensors`, which brings its weights and classes, or
        `timm/` and the name of any network of timm.
    num_classes: where None that of the weights file, or 10 with the cifar stem, else 1000.
    overrides: fields of `NetworkSpec`; for timm those of `TimmSpec` and arguments of `timm.create_model`; a
        weights file takes none, its weights fit one network.
    Raises ValueError or FileNotFoundError that names what was wrong, ModuleNotFoundError without timm.
    """
    if not isinstance(network, NetworkSpec | TimmSpec) and str(network).endswith(".safetensors"):
        if overrides or num_classes is not None:
            given = ", ".join([*overrides, *(["num_classes"] if num_classes is not None else [])])
            raise ValueError(f"{network}: the weights fit one network, so {given} cannot be changed")
        return weights.load(network, drop_path_keep=drop_path_keep, dropout=dropout, auxiliary=auxiliary)
    return build(
        resolve_spec(network, **overrides),
        num_classes,
        drop_path_keep=drop_path_keep,
        dropout=dropout,
        auxiliary=auxiliary,
    )


def resolve_spec(network: str | Path | NetworkSpec | TimmSpec, **overrides: Any) -> NetworkSpec | TimmSpec:
    """The spec that a name, a genotype file or a spec with overridden fields stands for."""
    if isinstance(network, TimmSpec):
        return dataclasses.replace(network, **overrides)
    if str(network).startswith(TIMM):
        return TimmSpec.from_name(str(network), **overrides)
    fields = [field.name for field in dataclasses.fields(NetworkSpec)]
    if unknown := [key for key in overrides if key not in fields]:
        raise ValueError(f"unknown network field {unknown[0]!r}, expected {', '.join(fields)}")
    if isinstance(network, NetworkSpec):
        return dataclasses.replace(network, **overrides)
    if str(network) in ZOO:
        return dataclasses.replace(ZOO[str(network)], **overrides)
    if str(network).endswith(".json"):
        return _spec_of(Genotype.load(network), str(network), overrides)
    near = difflib.get_close_matches(str(network), ZOO, n=3, cutoff=0.3) or list_models()
    raise ValueError(
        f"unknown network {str(network)!r}: did you mean {', '.join(near)}? "
        "Otherwise give a genotype.json, a backbone.safetensors or timm/<name>"
    )


def _spec_of(genotype: Genotype, where: str, fields: Mapping[str, Any]) -> NetworkSpec:
    if missing := [key for key in ("cells_per_stage", "filters") if key not in fields]:
        raise ValueError(f"{where}: a genotype has no size, {' and '.join(missing)} must be given")
    # Three times the filters, as the CIFAR networks of the paper have (docs/nasnet.md, section 4.1).
    default = {"stem_filters": 3 * fields["filters"]} if fields.get("stem") == "cifar" else {}
    return NetworkSpec(genotype, **{**default, **fields})


@dataclass(kw_only=True)
class BackboneConfig:
    """Which network a run trains. None: what the zoo name says, or the default of `NetworkSpec`."""

    name: str
    """A zoo name, the path of a genotype.json (then cells_per_stage and filters are needed), or
    timm/<name>, with image_size and batch_norm_momentum as its only other keys."""
    cells_per_stage: int | None = None
    """Normal cells in each of the three stages."""
    filters: int | None = None
    """Channels of one hidden state in the first stage."""
    stem: str | None = None
    """`imagenet` or `cifar`."""
    stem_filters: int | None = None
    """Channels of the stem's convolution."""
    image_size: int | None = None
    """Side of the training images in pixels."""
    padding: str | None = None
    """`same` or `symmetric`."""
    skip_reduction_input: bool | None = None
    """See `NetworkSpec`."""
    batch_norm_eps: float | None = None
    """Added to the variance."""
    batch_norm_momentum: float | None = None
    """Weight of the newest batch in the running statistics; the paper's 0.0003 needs 10,000s of steps."""

    def __post_init__(self) -> None:
        if self.name.startswith(TIMM):
            importlib.import_module("backbones.timm_backbone")  # says at once where timm is missing

    def _given(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "name" and value is not None}

    def spec(self) -> NetworkSpec | TimmSpec:
        """Raises ValueError or FileNotFoundError that names what was wrong."""
        return resolve_spec(self.name, **self._given())

    def spec_of(self, genotype: Genotype) -> NetworkSpec:
        """The spec with this genotype instead of the file `name`, which may not be written yet.

        Raises ValueError that names what was wrong.
        """
        return _spec_of(genotype, self.name, self._given())

    def build(self, num_classes: int, **training: Any) -> Backbone:
        """training: `drop_path_keep`, `dropout`, `auxiliary` of `NASNet`.

        Raises ValueError or FileNotFoundError that names what was wrong.
        """
        return build(self.spec(), num_classes, **training)
