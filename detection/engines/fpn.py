"""The maps of a backbone that a feature pyramid is built on, whichever engine computes it."""

from backbones.base import Backbone, FeatureInfo
from backbones.spec import NetworkSpec
from backbones.timm_spec import TimmSpec

PYRAMID_STRIDES = (4, 8, 16, 32)


def pyramid_maps(backbone: Backbone) -> list[FeatureInfo]:
    """The maps that the pyramid is built on, at PYRAMID_STRIDES. Raises ValueError where one is missing."""
    infos = [info for info in backbone.feature_info if info.stride in PYRAMID_STRIDES]
    if tuple(info.stride for info in infos) != PYRAMID_STRIDES:
        raise ValueError(_wrong_strides(backbone))
    return infos


def _wrong_strides(backbone: Backbone) -> str:
    strides = [info.stride for info in backbone.feature_info]
    has = ", ".join(map(str, strides)) or "none"
    fault = f"detection needs maps at strides 4, 8, 16 and 32; this backbone has {has}"
    spec = getattr(backbone, "spec", None)  # somebody's own network need not have one
    if isinstance(spec, TimmSpec):
        return f"{fault}: choose another network of timm than {spec.timm}"
    if not isinstance(spec, NetworkSpec):
        return fault
    if max(strides, default=0) < PYRAMID_STRIDES[-1]:
        return f"{fault}: train the classifier with the imagenet stem"
    # Cells that read h_{i-1} alone pass a cell by, and its map with it.
    missing = " and ".join(str(stride) for stride in PYRAMID_STRIDES if stride not in strides)
    return (
        f"{fault}: this genotype's cells leave no map at stride {missing}; choose another child of the search"
    )
