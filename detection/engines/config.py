"""Detectors as values: which engine, and the numbers of its parts.

Sources: Detectron2's Base-RCNN-FPN; for one map the paper's section 4.3 (docs/nasnet.md, section 7) and
Detectron2's `Res5ROIHeads`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar

from backbones.ranges import KEY, ConfigError, require, under
from backbones.words import clipped
from detection.model.config import MOST_BOXES, MOST_CHANNELS, BoxHeadConfig, C4HeadConfig, RpnConfig
from runtime.config import Builds

if TYPE_CHECKING:
    from backbones.base import Backbone
    from detection.engines.base import Engine

C4_STRIDE = 16
"""Of the one map that gives proposals; each is cropped from it, and the rest of the network sees the crop."""


@dataclass(kw_only=True)
class EngineConfig(Builds):
    """Group `detector`: an engine and the numbers of its detector. Subclasses add the keys of their parts."""

    head: ClassVar[str]
    """Kind of detector, `fpn` or `c4`: engines of one kind have the same keys, and their weights convert."""
    engine: ClassVar[str]
    """What `name` must be."""
    name: str
    """Name of the engine, recorded with the weights."""

    def __post_init__(self) -> None:
        if self.name != self.engine:
            raise ConfigError(f"{KEY}name = {clipped(self.name)}, but these are the keys of {self.engine!r}")

    def build(self, backbone: "Backbone", num_classes: int) -> "Engine":  # type: ignore[override]
        """A fresh detector over `backbone`.

        Raises ValueError unless the backbone reads RGB and has the maps that the detector needs, ImportError
        where the engine's package is not installed."""
        with under("detector"):
            return super().build(backbone, num_classes)


@dataclass(kw_only=True)
class FpnConfig(EngineConfig):
    """Keys of the engines with a pyramid. The defaults are those of Detectron2's Base-RCNN-FPN."""

    head: ClassVar[str] = "fpn"
    fpn_channels: int = 256
    """Channels of the pyramid and of the proposal network."""
    rpn: RpnConfig = field(default_factory=RpnConfig)
    """First stage."""
    box_head: BoxHeadConfig = field(default_factory=BoxHeadConfig)
    """Second stage."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "fpn_channels", least=1, limit=MOST_CHANNELS)

    def anchor_sizes(self, strides: Sequence[int]) -> list[list[int]]:
        """Of each level of the pyramid. Raises ConfigError unless there is one for each."""
        with under("rpn"):
            return self.rpn.sizes_by_level(strides)


def _paper_rpn() -> RpnConfig:
    return RpnConfig(
        anchor_sizes=[64, 128, 256, 512],  # scales 0.25, 0.5, 1 and 2 of 256
        pre_nms_train=12_000,
        pre_nms_test=6_000,
        post_nms_train=300,
        post_nms_test=300,
        box_loss_weight=2.0,
    )


@dataclass(kw_only=True)
class C4Config(EngineConfig):
    """Keys of the engines on one map. The defaults are the paper's; proposals before NMS, Detectron2's."""

    head: ClassVar[str] = "c4"
    rpn_channels: int = 512
    """Width of the proposal network's 3x3 convolution."""
    rpn: RpnConfig = field(default_factory=_paper_rpn)
    """First stage; every size has its anchors at every place of the map."""
    box_head: C4HeadConfig = field(default_factory=C4HeadConfig)
    """Second stage."""
    roi_chunk: int = 32
    """Regions whose last cells run at once in evaluation: memory grows with it, results do not change."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "rpn_channels", least=1, limit=MOST_CHANNELS)
        require(self, "roi_chunk", least=1, limit=MOST_BOXES)


@dataclass(kw_only=True)
class TorchvisionFpnConfig(FpnConfig):
    """Group `detector`: `torchvision_fpn`."""

    engine: ClassVar[str] = "torchvision_fpn"
    builds: ClassVar[str] = "detection.engines.torchvision:TorchvisionFpn"
    name: str = "torchvision_fpn"


@dataclass(kw_only=True)
class TorchvisionC4Config(C4Config):
    """Group `detector`: `torchvision_c4`."""

    engine: ClassVar[str] = "torchvision_c4"
    builds: ClassVar[str] = "detection.engines.torchvision_c4:TorchvisionC4"
    name: str = "torchvision_c4"


class _OfDetectron2:
    """What the choices of Detectron2's engines share, beside the keys of their kind."""

    def __post_init__(self: Any) -> None:
        super().__post_init__()  # type: ignore[misc]
        for key in ("rpn.iou_low", "box_head.iou_threshold"):
            if (value := attrgetter(key)(self)) == 0:  # Detectron2's `Matcher` does not take it
                raise ConfigError(f"{KEY}{key} = {value}, Detectron2 needs it above 0")

    def extras(self) -> dict[str, str]:
        """See `runtime.config.check_extras`."""
        return {"detectron2": "detectron2"}


@dataclass(kw_only=True)
class Detectron2FpnConfig(_OfDetectron2, FpnConfig):
    """Group `detector`: `detectron2_fpn`."""

    engine: ClassVar[str] = "detectron2_fpn"
    builds: ClassVar[str] = "detection.engines.detectron2_fpn:Detectron2Fpn"
    name: str = "detectron2_fpn"


@dataclass(kw_only=True)
class Detectron2C4Config(_OfDetectron2, C4Config):
    """Group `detector`: `detectron2_c4`."""

    engine: ClassVar[str] = "detectron2_c4"
    builds: ClassVar[str] = "detection.engines.detectron2_c4:Detectron2C4"
    name: str = "detectron2_c4"


ENGINES: Mapping[str, type[EngineConfig]] = {
    kind.engine: kind
    for kind in (TorchvisionFpnConfig, TorchvisionC4Config, Detectron2FpnConfig, Detectron2C4Config)
}
"""By the name that the configuration and a weights file give an engine."""
FAMILIES = ("torchvision", "detectron2")
"""What the names begin with: whose operations an engine is made of."""
