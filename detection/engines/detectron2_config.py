"""The Detectron2 engines by name; Detectron2 itself is imported when one of them is built."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from backbones.base import Backbone
from detection.c4 import C4Config
from detection.fpn import FpnConfig
from detection.heads import SecondStageConfig
from detection.rpn import RpnConfig

if TYPE_CHECKING:
    from detection.engines.detectron2_c4 import Detectron2C4
    from detection.engines.detectron2_fpn import Detectron2Fpn


@dataclass(kw_only=True)
class Detectron2FpnConfig(FpnConfig):
    """Group `detector`: `detectron2_fpn`."""

    engine: ClassVar[str] = "detectron2_fpn"
    name: str = "detectron2_fpn"

    def __post_init__(self) -> None:
        super().__post_init__()
        _refuse_zero(self.rpn, self.box_head)

    def build(
        self, backbone: Backbone, num_classes: int, mean: Sequence[float], std: Sequence[float]
    ) -> "Detectron2Fpn":
        """As `EngineConfig.build`; raises ImportError where Detectron2 is not installed."""
        from detection.engines.detectron2_fpn import Detectron2Fpn

        return Detectron2Fpn(self, backbone, num_classes, mean, std)


@dataclass(kw_only=True)
class Detectron2C4Config(C4Config):
    """Group `detector`: `detectron2_c4`."""

    engine: ClassVar[str] = "detectron2_c4"
    name: str = "detectron2_c4"

    def __post_init__(self) -> None:
        super().__post_init__()
        _refuse_zero(self.rpn, self.box_head)

    def build(
        self, backbone: Backbone, num_classes: int, mean: Sequence[float], std: Sequence[float]
    ) -> "Detectron2C4":
        """As `EngineConfig.build`; raises ImportError where Detectron2 is not installed."""
        from detection.engines.detectron2_c4 import Detectron2C4

        return Detectron2C4(self, backbone, num_classes, mean, std)


def _refuse_zero(rpn: RpnConfig, box_head: SecondStageConfig) -> None:
    """Raises ValueError for an overlap of 0, which Detectron2's `Matcher` does not take."""
    for key, value in (("rpn.iou_low", rpn.iou_low), ("box_head.iou_threshold", box_head.iou_threshold)):
        if value == 0:
            raise ValueError(f"detector.{key} = {value}, Detectron2 needs it above 0")
