"""Networks by name, and any genotype as a spec."""

import dataclasses
import difflib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backbones.files import existing
from backbones.genotype import Genotype
from backbones.published import NASNET_A
from backbones.ranges import KEY, ConfigError
from backbones.spec import NetworkSpec
from backbones.timm_spec import TIMM, TimmSpec

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


@dataclass(frozen=True)
class ForeignNetwork:
    """A network of another package, as its defaults build it. crop, interpolation: of its evaluation."""

    name: str
    spec: NetworkSpec
    crop: float
    interpolation: str


FOREIGN_NETWORKS: Mapping[str, ForeignNetwork] = {
    "timm": ForeignNetwork(
        "nasnetalarge",
        dataclasses.replace(
            ZOO["nasnet_a_large"], batch_norm_momentum=0.1, strided_average_counts_padding=True
        ),
        crop=0.911,
        interpolation="bicubic",
    ),
    "pretrainedmodels": ForeignNetwork(
        "nasnetamobile",
        dataclasses.replace(ZOO["nasnet_a_mobile"], batch_norm_momentum=0.1),
        crop=0.875,
        interpolation="bilinear",
    ),
}
"""By package, those that `convert` takes weights of: timm 1.0.31 and pretrainedmodels 0.7.4."""


def list_models() -> list[str]:
    """Names that `create` knows."""
    return sorted(ZOO)


class UnknownNetworkError(ValueError):
    """A name that stands for no network."""


@contextmanager
def under_name() -> Iterator[None]:
    """Unknown networks in the block are refused as the value of the key `name`."""
    try:
        yield
    except UnknownNetworkError as error:
        raise ConfigError(f"{KEY}name: {error}") from None


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
        return spec_of_genotype(Genotype.load(network), str(network), overrides)
    if os.path.lexists(network):
        existing(network, "genotype")  # a folder, a FIFO or a link to nothing is told as such
    near = difflib.get_close_matches(str(network), ZOO, n=3, cutoff=0.3) or list_models()
    raise UnknownNetworkError(
        f"unknown network {str(network)!r}: did you mean {', '.join(near)}? "
        "Otherwise give a genotype.json, a backbone.safetensors or timm/<name>"
    )


def spec_of_genotype(genotype: Genotype, where: str, fields: Mapping[str, Any]) -> NetworkSpec:
    """The spec of a genotype at a size. where: what a message calls it. Raises ValueError."""
    if missing := [key for key in ("cells_per_stage", "filters") if key not in fields]:
        raise ValueError(f"{where}: a genotype has no size, {' and '.join(missing)} must be given")
    # Three times the filters, as the CIFAR networks of the paper have (docs/nasnet.md, section 4.1).
    default = {"stem_filters": 3 * fields["filters"]} if fields.get("stem") == "cifar" else {}
    return NetworkSpec(genotype, **{**default, **fields})


def read_spec(value: Any, where: str = "network") -> NetworkSpec | TimmSpec:
    """The spec whose `to_dict` this is. where: file and key for the message. Raises ValueError."""
    if isinstance(value, Mapping) and "timm" in value:
        return TimmSpec.from_dict(value, where)
    return NetworkSpec.from_dict(value, where)
