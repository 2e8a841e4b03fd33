"""The second stage: proposals are cropped, classified and moved, in Detectron2's semantics.

Legend: `N` images, `R` boxes, `K` classes, `C` channels.
torchvision's `RoIHeads` and `MultiScaleRoIAlign` are not used: divisors, loss, level assignment,
alignment and filters all differ. Sources: Detectron2 `roi_heads.py`, `fast_rcnn.py`, `poolers.py`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import box_iou

from detection.formats import Prediction, Target
from detection.model import boxes as box_ops
from detection.model.config import BoxHeadConfig, SecondStageConfig
from detection.model.roi_align import roi_align, rows


class Sampled(NamedTuple):
    """Proposals of one image chosen for the losses of the second stage."""

    boxes: Tensor
    """`[R, 4]`."""
    labels: Tensor
    """`[R]`, K for the background."""
    targets: Tensor
    """`[R, 4]`, the matched object; without meaning for the background."""


class RoIAlignPyramid(nn.Module):
    """Crops each box from the map of its level."""

    def __init__(self, size: int, strides: Sequence[int]):
        super().__init__()
        self.size = size
        self.strides = tuple(strides)
        self.first_level = strides[0].bit_length() - 1

    def forward(self, maps: list[Tensor], boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """maps: `[N, C, H, W]` per stride. boxes: `[R, 4]` per image.

        Returns crops `[sum R, C, size, size]`, level by level, and the row of each box among them: numbers
        made of the crops are cheaper to put in order than the crops."""
        rois = rows(boxes)
        last_level = self.first_level + len(self.strides) - 1
        levels = box_ops.pyramid_levels(rois[:, 1:], self.first_level, last_level)
        crops = [
            roi_align(feature_map, rois[levels == level], self.size, stride)
            for level, (feature_map, stride) in enumerate(zip(maps, self.strides, strict=True))
        ]
        return torch.cat(crops), levels.argsort(stable=True).argsort()


class SecondStage(nn.Module):
    """Classifies proposals and moves them, each class with deltas of its own, from C numbers about each."""

    WEIGHTS = (10.0, 10.0, 5.0, 5.0)

    def __init__(self, config: SecondStageConfig, channels: int, num_classes: int):
        super().__init__()
        self.config = config
        self.num_classes = num_classes
        self.class_logits = nn.Linear(channels, num_classes + 1)
        self.box_deltas = nn.Linear(channels, num_classes * 4)
        nn.init.normal_(self.class_logits.weight, std=0.01)
        nn.init.normal_(self.box_deltas.weight, std=0.001)
        for layer in (self.class_logits, self.box_deltas):
            nn.init.zeros_(layer.bias)

    def score(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """hidden: `[R, C]`. Class logits `[R, K + 1]`, background last, and deltas `[R, K, 4]`, float32."""
        return self.class_logits(hidden).float(), self.box_deltas(hidden).float().unflatten(1, (-1, 4))

    @torch.no_grad()
    def sample(self, proposals: list[Tensor], targets: list[Target]) -> list[Sampled]:
        """Proposals for the losses; the objects themselves are among the candidates."""
        sampled = []
        for candidates, target in zip(proposals, targets, strict=True):
            candidates = torch.cat([candidates, target["boxes"]])
            overlaps, threshold = box_iou(target["boxes"], candidates), self.config.iou_threshold
            draws = box_ops.generator(target.get("seed"), 1)
            indices, positive, negative = box_ops.matched_samples(
                overlaps, (threshold, threshold), self.config, draws
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
            "loss_box_reg": self.config.box_loss_weight * error / count,
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
            keep = box_ops.nms_by_group(boxes, scores, labels, config.nms_threshold)
            keep = keep[: config.detections_per_image]
            # After the cut, as Detectron2's postprocessing does: an empty box takes a place and gives none.
            keep = keep[box_ops.has_area(boxes[keep])]
            predictions.append({"boxes": boxes[keep], "scores": scores[keep], "labels": labels[keep]})
        return predictions


class BoxHead(SecondStage):
    """The second stage on a feature pyramid: RoIAlign and two fully connected layers before the scores."""

    def __init__(self, config: BoxHeadConfig, channels: int, strides: Sequence[int], num_classes: int):
        super().__init__(config, config.width, num_classes)
        self.pool = RoIAlignPyramid(config.pooled_size, strides)
        self.fc1 = nn.Linear(channels * config.pooled_size**2, config.width)
        self.fc2 = nn.Linear(config.width, config.width)
        for layer in (self.fc1, self.fc2):
            nn.init.kaiming_uniform_(layer.weight, a=1)
            nn.init.zeros_(layer.bias)

    def forward(self, maps: list[Tensor], boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """As `score`, of all boxes: `[sum R, K + 1]` and `[sum R, K, 4]`."""
        crops, rows = self.pool(maps, boxes)
        hidden = F.relu(self.fc2(F.relu(self.fc1(crops.flatten(1)))))
        return self.score(hidden[rows])
