"""Detection of one image of a fixed size with no branch on how much is found, as exported programs need it.

`RegionProposals.select`, `RoIAlignPyramid` and `SecondStage.detect` with fixed counts: boxes without area pad
what is missing, and a mask tells what is real. Legend: `R` proposals, `K` classes, `D` detections.
"""

from typing import TypedDict

import torch
from torch import Tensor, nn
from torchvision.ops import nms

from detection.engines.torchvision import TorchvisionEngine, TorchvisionFpn
from detection.engines.torchvision_c4 import TorchvisionC4
from detection.model import boxes as box_ops
from detection.model.heads import RoIAlignPyramid, SecondStage
from detection.model.roi_align import roi_align
from detection.model.rpn import Proposals, RegionProposals

CANDIDATES = 5000
"""Detections that enter the last NMS at most, the best; `SecondStage.detect` takes all that it may."""


class FixedDetections(TypedDict):
    """Detections of one image, best first; zeros where `valid` is false."""

    boxes: Tensor
    """`[D, 4]` float32 xyxy in pixels of the image as given."""
    scores: Tensor
    """`[D]` float32 in 0..1."""
    labels: Tensor
    """`[D]` int64 in 0..K-1."""
    valid: Tensor
    """`[D]` bool."""


class FixedDetector(nn.Module):
    """What an engine's `predict` finds in one image; parts of the engine, which is changed, do the work."""

    def __init__(self, engine: TorchvisionEngine) -> None:
        super().__init__()
        self.engine = engine
        if isinstance(engine, TorchvisionFpn):
            engine.box_head.pool = _FixedRoIAlign(engine.box_head.pool)  # type: ignore[assignment]
        if isinstance(engine, TorchvisionC4):
            engine.roi_chunk = engine.rpn.config.post_nms_test  # the last cells once in the program

    def forward(self, image: Tensor) -> FixedDetections:
        """image: `[1, 3, H, W]` float32, RGB in 0..1."""
        size = (image.shape[2], image.shape[3])
        maps, _ = self.engine.maps([image[0]])
        proposals = fixed_proposals(self.engine.rpn, self.engine.rpn(maps), size)
        logits, deltas = self.engine.score(maps, [proposals])
        return fixed_detections(self.engine.box_head, logits, deltas, proposals, size)


class _FixedRoIAlign(nn.Module):
    """All boxes are cropped from all levels. From the others than its own a box without area is cropped:
    it has no samples, so it costs nothing and gives zeros, and the sum is the crop of its own level."""

    def __init__(self, pool: RoIAlignPyramid) -> None:
        super().__init__()
        self.size, self.strides, self.first_level = pool.size, pool.strides, pool.first_level

    def forward(self, maps: list[Tensor], boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """maps: `[1, C, H, W]` per stride. boxes: `[R, 4]` of the one image.

        Returns `[R, C, size, size]` and the row of each box."""
        (every,) = boxes
        last_level = self.first_level + len(self.strides) - 1
        levels = box_ops.pyramid_levels(every, self.first_level, last_level)
        image = every.new_zeros(len(every), 1)
        crops = []
        for level, (feature_map, stride) in enumerate(zip(maps, self.strides, strict=True)):
            rois = torch.cat([image, torch.where((levels == level)[:, None], every, 0.0)], dim=1)
            crops.append(roi_align(feature_map, rois, self.size, stride))
        return torch.stack(crops).sum(dim=0), torch.arange(len(every), device=every.device)


def fixed_proposals(rpn: RegionProposals, proposals: Proposals, size: tuple[int, int]) -> Tensor:
    """Best proposals `[R, 4]` of one image, best first, then boxes without area where they are fewer."""
    config = rpn.config
    boxes, scores, first = [], [], 0
    for count in proposals.level_sizes:
        here = slice(first, first + count)
        chosen = box_ops.best(proposals.logits[0, here], min(count, config.pre_nms_test))
        logits = proposals.logits[0, here][chosen]
        moved = box_ops.decode(
            proposals.anchors[here][chosen], proposals.deltas[0, here][chosen], rpn.WEIGHTS
        )
        moved = box_ops.clip(moved, *size)
        good = moved.isfinite().all(dim=1) & logits.isfinite() & box_ops.has_area(moved)
        kept = _kept(moved, logits, good, config.nms_threshold)
        boxes.append(torch.where(kept[:, None], moved, 0.0))
        scores.append(torch.where(kept, logits, _LOWEST))
        first += count
    every = torch.cat(scores)
    return torch.cat(boxes)[box_ops.best(every, min(len(every), config.post_nms_test))]


_LOWEST = torch.finfo(torch.float32).min


def _kept(boxes: Tensor, scores: Tensor, good: Tensor, threshold: float) -> Tensor:
    """Mask `[R]` of the good boxes that NMS keeps. The others come last there and suppress none of them."""
    chosen = nms(torch.where(good[:, None], boxes, 0.0), torch.where(good, scores, _LOWEST), threshold)
    mask = torch.zeros_like(good).scatter(0, chosen, True)
    return mask & good


def fixed_detections(
    head: SecondStage, logits: Tensor, deltas: Tensor, proposals: Tensor, size: tuple[int, int]
) -> FixedDetections:
    """logits: `[R, K + 1]`. deltas: `[R, K, 4]`. proposals: `[R, 4]`, those without area are padding."""
    config = head.config
    boxes = box_ops.decode(proposals[:, None], deltas, head.WEIGHTS)
    scores = logits.softmax(dim=1)
    real = box_ops.has_area(proposals) & boxes.isfinite().all(dim=2).all(dim=1) & scores.isfinite().all(dim=1)
    scores = scores[:, :-1]
    scores = torch.where(real[:, None] & (scores > config.score_threshold), scores, -1.0).flatten()
    candidates = box_ops.best(scores, min(scores.shape[0], CANDIDATES))
    scores = scores[candidates]
    labels = candidates % deltas.shape[1]
    boxes = box_ops.clip(boxes, *size).flatten(0, 1)[candidates]
    # One NMS for all classes: each lies on a plane of its own.
    apart = labels.to(boxes.dtype)[:, None] * (max(size) + 1)
    kept = _kept(boxes + apart, scores, scores >= 0, config.nms_threshold)
    scores = torch.where(kept, scores, -1.0)
    best = box_ops.best(scores, min(len(scores), config.detections_per_image))
    boxes, scores, labels = boxes[best], scores[best], labels[best]
    valid = (scores >= 0) & box_ops.has_area(boxes)
    return {
        "boxes": torch.where(valid[:, None], boxes, 0.0),
        "scores": torch.where(valid, scores, 0.0),
        "labels": torch.where(valid, labels, 0),
        "valid": valid,
    }
