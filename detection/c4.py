"""What the paper's detector is, whichever engine computes it: one map, and the last cells once per region.

The map at stride 16 gives proposals; each is cropped from it by RoIAlign, and the rest of the network runs on
the crop. Sources: the paper's section 4.3 (docs/nasnet.md, section 7); Detectron2 `Res5ROIHeads`.
"""

from dataclasses import dataclass, field
from typing import ClassVar

from detection.engines.base import EngineConfig
from detection.heads import SecondStageConfig
from detection.rpn import RpnConfig

C4_STRIDE = 16


@dataclass(kw_only=True)
class C4HeadConfig(SecondStageConfig):
    """Second stage on crops of one map; the defaults are the paper's."""

    crop_size: int = 17
    """Side of the RoIAlign grid, which the rest of the network halves."""
    batch_size_per_image: int = 64
    """Proposals sampled per image for the losses; each is a pass of the last cells."""
    score_threshold: float = 0.0
    """Detections with a score not above this are dropped."""
    nms_threshold: float = 0.6
    """IoU above which the worse of two detections of one class is dropped."""
    box_loss_weight: float = 2.0
    """Factor of `loss_box_reg`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_counts("crop_size")


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
        for key in ("rpn_channels", "roi_chunk"):
            if getattr(self, key) < 1:
                raise ValueError(f"detector.{key} = {getattr(self, key)}, must be at least 1")
