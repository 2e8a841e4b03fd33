"""The two stages of Faster R-CNN on a feature pyramid, in Detectron2's semantics.

Legend: `N` images, `L` levels, `A` anchors over all levels, `R` boxes, `K` classes, `C` channels.
The pyramid and the head of the proposal network are torchvision's, which agree with Detectron2's.
Its `RegionProposalNetwork`, `RoIHeads` and `MultiScaleRoIAlign` are not used: losses, divisors,
sampling, level assignment, alignment and filters all differ, more than half of each class.
Sources: Detectron2 `rpn.py`, `proposal_utils.py`, `roi_heads.py`, `fast_rcnn.py`, `poolers.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import batched_nms, box_iou, roi_align

from detection import boxes as box_ops
from detection.engines.base import Prediction, Target


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} = {value}, must be in {low}..{high}")


def _check_counts(**counts: int) -> None:
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name} = {value}, must be at least 1")


@dataclass(kw_only=True)
class RpnConfig:
    """Region proposal network; the defaults are Detectron2's Base-RCNN-FPN."""

    anchor_sizes: list[int] = field(default_factory=lambda: [32, 64, 128, 256, 512])
    """Square root of the anchor area in pixels, one per level p2..p6."""
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

    def __post_init__(self) -> None:
        if not self.anchor_sizes or min(self.anchor_sizes) <= 0:
            raise ValueError(f"rpn.anchor_sizes = {self.anchor_sizes}, must be positive, one per level")
        if not self.aspect_ratios or min(self.aspect_ratios) <= 0:
            raise ValueError(f"rpn.aspect_ratios = {self.aspect_ratios}, must be positive")
        for name in ("positive_fraction", "iou_low", "iou_high", "nms_threshold"):
            _check_range(f"rpn.{name}", getattr(self, name), 0, 1)
        if self.iou_low > self.iou_high:
            raise ValueError(f"rpn.iou_low = {self.iou_low} exceeds rpn.iou_high = {self.iou_high}")
        names = ("batch_size_per_image", "pre_nms_train", "pre_nms_test", "post_nms_train", "post_nms_test")
        _check_counts(**{f"rpn.{name}": getattr(self, name) for name in names})


@dataclass(kw_only=True)
class BoxHeadConfig:
    """Second stage; the defaults are Detectron2's Base-RCNN-FPN."""

    width: int = 1024
    """Channels of the two fully connected layers."""
    pooled_size: int = 7
    """Side of the RoIAlign grid."""
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

    def __post_init__(self) -> None:
        for name in ("positive_fraction", "iou_threshold", "score_threshold", "nms_threshold"):
            _check_range(f"box_head.{name}", getattr(self, name), 0, 1)
        names = ("width", "pooled_size", "batch_size_per_image", "detections_per_image")
        _check_counts(**{f"box_head.{name}": getattr(self, name) for name in names})


class Proposals(NamedTuple):
    """What the proposal network says about every anchor of a batch."""

    anchors: Tensor
    """`[A, 4]`, the same for all images."""
    logits: Tensor
    """`[N, A]` float32, objectness."""
    deltas: Tensor
    """`[N, A, 4]` float32, from the anchor to the object."""
    level_sizes: list[int]
    """Anchors per level; their sum is A."""


class RegionProposals(nn.Module):
    """Scores and moves anchors; one 3x3 and two 1x1 convolutions shared by all levels."""

    WEIGHTS = (1.0, 1.0, 1.0, 1.0)

    def __init__(self, config: RpnConfig, channels: int, strides: Sequence[int]):
        super().__init__()
        if len(config.anchor_sizes) != len(strides):
            raise ValueError(
                f"rpn.anchor_sizes has {len(config.anchor_sizes)} entries, the pyramid {len(strides)} levels "
                f"(strides {', '.join(map(str, strides))}): give one size per level"
            )
        self.config = config
        self.strides = tuple(strides)
        self.head = RPNHead(channels, len(config.aspect_ratios))

    def forward(self, maps: list[Tensor]) -> Proposals:
        """maps: L tensors `[N, C, H, W]`, one per stride."""
        logits, deltas = self.head(maps)
        anchors = []
        for level, stride, size in zip(maps, self.strides, self.config.anchor_sizes, strict=True):
            cells = box_ops.cell_anchors([size], self.config.aspect_ratios).to(level.device)
            anchors.append(box_ops.grid_anchors(cells, level.shape[2], level.shape[3], stride))
        # [N, anchors per place, H, W] -> [N, H * W * anchors per place], the order of grid_anchors
        logits = [level.permute(0, 2, 3, 1).flatten(1) for level in logits]
        deltas = [
            level.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).reshape(len(level), -1, 4) for level in deltas
        ]
        return Proposals(
            torch.cat(anchors),
            torch.cat(logits, dim=1).float(),
            torch.cat(deltas, dim=1).float(),
            [len(level) for level in anchors],
        )

    def losses(self, proposals: Proposals, targets: list[Target]) -> dict[str, Tensor]:
        """Cross-entropy over sampled anchors, L1 over the positive ones among them."""
        anchors = proposals.anchors
        classification = proposals.logits.sum() * 0
        localisation = proposals.deltas.sum() * 0
        for logits, deltas, target in zip(proposals.logits, proposals.deltas, targets, strict=True):
            indices, kinds = box_ops.match(
                box_iou(target["boxes"], anchors), self.config.iou_low, self.config.iou_high, keep_best=True
            )
            positive, negative = box_ops.sample(
                kinds == 1, kinds == 0, self.config.batch_size_per_image, self.config.positive_fraction
            )
            chosen = logits[torch.cat([positive, negative])]
            wanted = torch.cat([torch.ones_like(positive), torch.zeros_like(negative)]).to(chosen.dtype)
            classification = classification + F.binary_cross_entropy_with_logits(
                chosen, wanted, reduction="sum"
            )
            if len(positive):
                goal = box_ops.encode(anchors[positive], target["boxes"][indices[positive]], self.WEIGHTS)
                localisation = localisation + (deltas[positive] - goal).abs().sum()
        divisor = self.config.batch_size_per_image * len(targets)
        return {"loss_rpn_cls": classification / divisor, "loss_rpn_loc": localisation / divisor}

    @torch.no_grad()
    def select(self, proposals: Proposals, image_sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
        """Best proposals `[R, 4]` of each image, best first; NMS within each level.

        image_sizes: (H, W) before padding. The boxes are constants for the second stage.
        Raises FloatingPointError in training when a box or a score is not finite."""
        config = self.config
        before = config.pre_nms_train if self.training else config.pre_nms_test
        after = config.post_nms_train if self.training else config.post_nms_test
        chosen, levels, first = [], [], 0
        for level, size in enumerate(proposals.level_sizes):
            count = min(size, before)
            chosen.append(proposals.logits[:, first : first + size].topk(count, dim=1).indices + first)
            levels.append(torch.full((count,), level, device=proposals.logits.device))
            first += size
        level_of = torch.cat(levels)
        selected = []
        rows = zip(torch.cat(chosen, dim=1), proposals.logits, proposals.deltas, image_sizes, strict=True)
        for row, logits, deltas, (height, width) in rows:
            scores = logits[row]
            boxes = box_ops.decode(proposals.anchors[row], deltas[row], self.WEIGHTS)
            finite = boxes.isfinite().all(dim=1) & scores.isfinite()
            if self.training and not finite.all():
                raise FloatingPointError("the proposal network's boxes or scores are not finite")
            boxes = box_ops.clip(boxes, height, width)
            good = finite & box_ops.has_area(boxes)
            boxes, scores, level_ids = boxes[good], scores[good], level_of[good]
            selected.append(boxes[batched_nms(boxes, scores, level_ids, config.nms_threshold)[:after]])
        return selected


class Sampled(NamedTuple):
    """Proposals of one image chosen for the losses of the second stage."""

    boxes: Tensor
    """`[R, 4]`."""
    labels: Tensor
    """`[R]`, K for the background."""
    targets: Tensor
    """`[R, 4]`, the matched object; without meaning for the background."""


class RoIAlignPyramid(nn.Module):
    """RoIAlign with half-pixel alignment and as many samples as the box has pixels, per level."""

    def __init__(self, size: int, strides: Sequence[int]):
        super().__init__()
        self.size = size
        self.strides = tuple(strides)
        self.first_level = strides[0].bit_length() - 1

    def forward(self, maps: list[Tensor], boxes: list[Tensor]) -> Tensor:
        """maps: `[N, C, H, W]` per stride. boxes: `[R, 4]` per image.

        Returns `[sum R, C, size, size]`."""
        everything = torch.cat(boxes)
        levels = box_ops.pyramid_levels(
            everything, self.first_level, self.first_level + len(self.strides) - 1
        )
        image = torch.cat([torch.full((len(b),), float(i), device=b.device) for i, b in enumerate(boxes)])
        rois = torch.cat([image[:, None], everything], dim=1).to(maps[0].dtype)
        pooled = maps[0].new_zeros(len(rois), maps[0].shape[1], self.size, self.size)
        for level, (feature_map, stride) in enumerate(zip(maps, self.strides, strict=True)):
            here = (levels == level).nonzero().squeeze(1)
            crops = roi_align(feature_map, rois[here], self.size, 1 / stride, sampling_ratio=0, aligned=True)
            pooled = pooled.index_put((here,), crops)
        return pooled


class BoxHead(nn.Module):
    """Classifies proposals and moves them, each class with deltas of its own."""

    WEIGHTS = (10.0, 10.0, 5.0, 5.0)

    def __init__(self, config: BoxHeadConfig, channels: int, strides: Sequence[int], num_classes: int):
        super().__init__()
        self.config = config
        self.num_classes = num_classes
        self.pool = RoIAlignPyramid(config.pooled_size, strides)
        self.fc1 = nn.Linear(channels * config.pooled_size**2, config.width)
        self.fc2 = nn.Linear(config.width, config.width)
        self.class_logits = nn.Linear(config.width, num_classes + 1)
        self.box_deltas = nn.Linear(config.width, num_classes * 4)
        for layer in (self.fc1, self.fc2):
            nn.init.kaiming_uniform_(layer.weight, a=1)
        nn.init.normal_(self.class_logits.weight, std=0.01)
        nn.init.normal_(self.box_deltas.weight, std=0.001)
        for layer in (self.fc1, self.fc2, self.class_logits, self.box_deltas):
            nn.init.zeros_(layer.bias)

    def forward(self, maps: list[Tensor], boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Class logits `[sum R, K + 1]`, background last, and deltas `[sum R, K, 4]`, float32."""
        hidden = F.relu(self.fc1(self.pool(maps, boxes).flatten(1)))
        hidden = F.relu(self.fc2(hidden))
        return self.class_logits(hidden).float(), self.box_deltas(hidden).float().unflatten(1, (-1, 4))

    @torch.no_grad()
    def sample(self, proposals: list[Tensor], targets: list[Target]) -> list[Sampled]:
        """Proposals for the losses; the objects themselves are among the candidates."""
        sampled = []
        for candidates, target in zip(proposals, targets, strict=True):
            candidates = torch.cat([candidates, target["boxes"]])
            indices, kinds = box_ops.match(
                box_iou(target["boxes"], candidates),
                self.config.iou_threshold,
                self.config.iou_threshold,
                keep_best=False,
            )
            positive, negative = box_ops.sample(
                kinds == 1, kinds == 0, self.config.batch_size_per_image, self.config.positive_fraction
            )
            background = torch.full_like(negative, self.num_classes)
            chosen = torch.cat([positive, negative])
            boxes = candidates[chosen]
            has_objects = len(target["boxes"]) > 0
            sampled.append(
                Sampled(
                    boxes,
                    torch.cat([target["labels"][indices[positive]], background]),
                    target["boxes"][indices[chosen]] if has_objects else boxes,
                )
            )
        return sampled

    def losses(self, logits: Tensor, deltas: Tensor, sampled: list[Sampled]) -> dict[str, Tensor]:
        """Mean cross-entropy, and L1 of the positive ones divided by all sampled proposals."""
        labels = torch.cat([image.labels for image in sampled])
        boxes = torch.cat([image.boxes for image in sampled])
        targets = torch.cat([image.targets for image in sampled])
        positive = (labels < self.num_classes).nonzero().squeeze(1)
        goal = box_ops.encode(boxes[positive], targets[positive], self.WEIGHTS)
        error = (deltas[positive, labels[positive]] - goal).abs().sum()
        count = max(len(labels), 1)
        return {
            "loss_cls": F.cross_entropy(logits, labels, reduction="sum") / count,
            "loss_box_reg": error / count,
        }

    def detect(
        self, logits: Tensor, deltas: Tensor, proposals: list[Tensor], image_sizes: Sequence[tuple[int, int]]
    ) -> list[Prediction]:
        """Detections of each image after the score threshold and NMS within each class."""
        config = self.config
        counts = [len(boxes) for boxes in proposals]
        moved = box_ops.decode(torch.cat(proposals)[:, None], deltas, self.WEIGHTS)
        predictions: list[Prediction] = []
        for boxes, scores, (height, width) in zip(
            moved.split(counts), logits.softmax(dim=1).split(counts), image_sizes, strict=True
        ):
            finite = boxes.isfinite().all(dim=(1, 2)) & scores.isfinite().all(dim=1)
            boxes = box_ops.clip(boxes[finite], height, width)
            scores = scores[finite, :-1]
            above = scores > config.score_threshold
            labels = above.nonzero()[:, 1]
            boxes, scores = boxes[above], scores[above]
            keep = batched_nms(boxes, scores, labels, config.nms_threshold)[: config.detections_per_image]
            # After the cut, as Detectron2's postprocessing does: an empty box takes a place and gives none.
            keep = keep[box_ops.has_area(boxes[keep])]
            predictions.append({"boxes": boxes[keep], "scores": scores[keep], "labels": labels[keep]})
        return predictions
