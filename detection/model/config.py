"""The two stages of a detector as values. The defaults are Detectron2's; of `C4HeadConfig`, the paper's."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from backbones.ranges import KEY, ConfigError, require
from backbones.words import clipped

MOST_CHANNELS = 65_536
"""Channels, or units, of a layer."""
MOST_BOXES = 1_000_000
"""Boxes of one image."""
MOST_GRID = 128
"""Side of RoIAlign's grid."""


@dataclass(kw_only=True)
class RpnConfig:
    """Region proposal network; the defaults are Detectron2's Base-RCNN-FPN."""

    anchor_sizes: list[int] = field(default_factory=lambda: [32, 64, 128, 256, 512])
    """Square root of the anchor area in pixels: one per level p2..p6 of a pyramid, or all on one map."""
    aspect_ratios: list[float] = field(default_factory=lambda: [0.5, 1.0, 2.0])
    """Height / width."""
    batch_size_per_image: int = 256
    """Anchors sampled per image for the losses, which are divided by this x images."""
    positive_fraction: float = 0.5
    """Largest share of positives among them."""
    iou_low: float = 0.3
    """Anchors that overlap every object less than this are background."""
    iou_high: float = 0.7
    """Anchors that overlap an object at least this much are positive."""
    nms_threshold: float = 0.7
    """IoU above which the worse of two proposals of one level is dropped."""
    pre_nms_train: int = 2000
    """Proposals per level that enter NMS in training."""
    pre_nms_test: int = 1000
    """The same in evaluation."""
    post_nms_train: int = 1000
    """Proposals per image kept after NMS in training, all levels together."""
    post_nms_test: int = 1000
    """The same in evaluation."""
    box_loss_weight: float = 1.0
    """Factor of `loss_rpn_loc`."""

    def __post_init__(self) -> None:
        for key, least, most in (("anchor_sizes", 1, 100_000), ("aspect_ratios", 0.01, 100)):
            if not (values := getattr(self, key)) or not all(least <= value <= most for value in values):
                raise ConfigError(
                    f"{KEY}{key} = {clipped(values)}, must be one or more numbers in {least}..{most}"
                )
        require(self, "positive_fraction", "iou_low", "iou_high", "nms_threshold", least=0, most=1)
        if self.iou_low > self.iou_high:
            raise ConfigError(f"{KEY}iou_low = {self.iou_low} exceeds {KEY}iou_high = {self.iou_high}")
        require(self, "batch_size_per_image", "pre_nms_train", "pre_nms_test", least=1, limit=MOST_BOXES)
        require(self, "post_nms_train", "post_nms_test", least=1, limit=MOST_BOXES)
        require(self, "box_loss_weight", above=0)

    def sizes_by_level(self, strides: Sequence[int]) -> list[list[int]]:
        """Anchor sizes on each level of a pyramid. Raises ValueError unless there is one for each."""
        if len(self.anchor_sizes) != len(strides):
            raise ConfigError(
                f"{KEY}anchor_sizes = {clipped(self.anchor_sizes)}, expected {len(strides)} sizes, "
                f"one per level of the pyramid (strides {', '.join(map(str, strides))})"
            )
        return [[size] for size in self.anchor_sizes]


@dataclass(kw_only=True)
class SecondStageConfig:
    """What every second stage has; the defaults are Detectron2's Base-RCNN-FPN."""

    batch_size_per_image: int = 512
    """Proposals sampled per image for the losses."""
    positive_fraction: float = 0.25
    """Largest share of positives among them."""
    iou_threshold: float = 0.5
    """Overlap with an object from which a proposal is positive."""
    score_threshold: float = 0.05
    """Detections with a score not above this are dropped."""
    nms_threshold: float = 0.5
    """IoU above which the worse of two detections of one class is dropped."""
    detections_per_image: int = 100
    """Detections kept per image; COCO counts 100."""
    box_loss_weight: float = 1.0
    """Factor of `loss_box_reg`."""

    def __post_init__(self) -> None:
        require(self, "positive_fraction", "iou_threshold", "score_threshold", least=0, most=1)
        require(self, "nms_threshold", least=0, most=1)
        require(self, "batch_size_per_image", "detections_per_image", least=1, limit=MOST_BOXES)
        require(self, "box_loss_weight", above=0)


@dataclass(kw_only=True)
class BoxHeadConfig(SecondStageConfig):
    """Second stage on a feature pyramid."""

    width: int = 1024
    """Channels of the two fully connected layers."""
    pooled_size: int = 7
    """Side of the RoIAlign grid."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "width", least=1, limit=MOST_CHANNELS)
        require(self, "pooled_size", least=1, limit=MOST_GRID)


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
        require(self, "crop_size", least=1, limit=MOST_GRID)
