"""A network from its spec: ours, or one of timm's."""

from typing import Any

from backbones.base import Classifier
from backbones.network import NASNet
from backbones.spec import NetworkSpec
from backbones.timm_spec import TimmSpec


def build(
    spec: NetworkSpec | TimmSpec,
    num_classes: int | None = None,
    *,
    drop_path_keep: float = 1.0,
    dropout: float = 0.0,
    auxiliary: bool = False,
    head_init: str = "fan_in",
) -> Classifier:
    """The network of a spec with fresh weights. The options are those of `NASNet`.

    head_init: timm starts its own networks in its own way.

    num_classes: K; `spec.default_classes` where None.
    Raises ValueError for what cannot be built, ModuleNotFoundError where timm is needed and absent.
    """
    options: dict[str, Any] = {"drop_path_keep": drop_path_keep, "dropout": dropout, "auxiliary": auxiliary}
    if isinstance(spec, TimmSpec):
        from backbones.timm_backbone import TimmBackbone

        return TimmBackbone(spec, num_classes, **options)
    return NASNet(spec, num_classes, **options, head_init=head_init)
