"""A ResNet for 32 px, registered with timm, which has none: what cells are measured beside on CIFAR-10."""

from collections.abc import Sequence
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, ResNet
from torch import nn

_STEM_STRIDE = 4
"""Of timm's stem, which is replaced by one without strides."""


default_cfgs = generate_default_cfgs(
    {
        "resnet18_cifar": {
            "num_classes": 10,
            "input_size": (3, 32, 32),
            "pool_size": (4, 4),
            "crop_pct": 1.0,
            "interpolation": "bilinear",
            "mean": (0.5, 0.5, 0.5),
            "std": (0.5, 0.5, 0.5),
            "first_conv": "conv1",
            "classifier": "fc",
        }
    }
)


class CifarResNet(ResNet):
    """timm's ResNet after one 3x3 convolution. Source: 1512.03385, section 4.2."""

    conv1: Any
    maxpool: Any
    feature_info: Any

    def __init__(self, channels: Sequence[int], in_chans: int = 3, **options: Any) -> None:
        # The deep stem is the one whose width can be chosen; its convolutions are replaced.
        stem: dict[str, Any] = {"stem_type": "deep", "stem_width": channels[0] // 2}
        block: Any = BasicBlock
        super().__init__(block, (2, 2, 2, 2), channels=tuple(channels), in_chans=in_chans, **stem, **options)
        self.conv1 = nn.Conv2d(in_chans, channels[0], 3, padding=1, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.maxpool = nn.Identity()
        for info in self.feature_info:
            info["reduction"] = max(1, info["reduction"] // _STEM_STRIDE)


@register_model
def resnet18_cifar(
    pretrained: bool = False, channels: Sequence[int] = (12, 24, 48, 96), **options: Any
) -> CifarResNet:
    """Four stages of two basic blocks. channels: even, of the stages; by default 12/64 of ResNet-18's."""
    return build_model_with_cfg(CifarResNet, "resnet18_cifar", pretrained, channels=channels, **options)
