"""Detection of one image with no branch on how much is found, as exported programs need it.

`RegionProposals.select`, `RoIAlignPyramid` and `SecondStage.detect` with fixed counts: boxes without area pad
what is missing, and a mask tells what is real. Legend: `R` proposals, `K` classes, `D` detections.
"""

from typing import TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detection.deployment.operators import LOWEST, best, crops, kept
from detection.engines.config import C4_STRIDE
from detection.engines.torchvision import TorchvisionEngine, TorchvisionFpn
from detection.engines.torchvision_c4 import TorchvisionC4
from detection.model import boxes as box_ops
from detection.model.heads import RoIAlignPyramid, SecondStage
from detection.model.rpn import Proposals, RegionProposals


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
            engine.box_head.pool = _FixedPyramid(engine.box_head.pool)  # type: ignore[assignment]

    def forward(self, image: Tensor, size: Tensor) -> FixedDetections:
        """image: `[1, 3, H, W]` float32, RGB in 0..1; H and W are multiples of `engine.divisor`.
        size: `[2]` int64, the height and width of the picture in it; beside that lies padding."""
        engine = self.engine
        rows, columns = (torch.arange(side) for side in image.shape[2:])
        inside = (rows < size[0])[:, None] & (columns < size[1])
        maps = engine.maps_of(torch.where(inside, (image - engine.mean) / engine.std, 0.0))
        limits = size.flip(0).repeat(2).float()
        proposals = fixed_proposals(engine.rpn, engine.rpn(maps), limits)
        # A box without area has no samples, of which a mean is not a number in some runtimes.
        corner = proposals.new_tensor([0.0, 0.0, 1.0, 1.0])
        regions = torch.where(box_ops.has_area(proposals)[:, None], proposals, corner)
        logits, deltas = self._score(maps, regions)
        return fixed_detections(engine.box_head, logits, deltas, proposals, limits)

    def _score(self, maps: list[Tensor], regions: Tensor) -> tuple[Tensor, Tensor]:
        if not isinstance(self.engine, TorchvisionC4):
            return self.engine.score(maps, [regions])
        first = torch.zeros(regions.shape[0], dtype=torch.int64)
        cropped, rows = crops(maps, regions, first, [C4_STRIDE], self.engine.crop_size)
        return self.engine.box_head.score(self.engine.hidden(cropped)[rows])


class _FixedPyramid(nn.Module):
    """`RoIAlignPyramid` of one image."""

    def __init__(self, pool: RoIAlignPyramid) -> None:
        super().__init__()
        self.size, self.strides, self.first_level = pool.size, pool.strides, pool.first_level

    def forward(self, maps: list[Tensor], boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        (every,) = boxes
        last_level = self.first_level + len(self.strides) - 1
        levels = box_ops.pyramid_levels(every, self.first_level, last_level)
        return crops(maps, every, levels, list(self.strides), self.size)


def fixed_proposals(rpn: RegionProposals, proposals: Proposals, limits: Tensor) -> Tensor:
    """Best proposals `[R, 4]` of one image, best first, then boxes without area where they are fewer.

    limits: `[4]`, the width, height, width and height of the picture, pixels."""
    config = rpn.config
    boxes, scores, first = [], [], 0
    for count in proposals.level_sizes:
        here = slice(first, first + count)
        # As many on each level, so that no shape depends on the image's size.
        padding = config.pre_nms_test
        logits = F.pad(proposals.logits[0, here], (0, padding), value=LOWEST)
        chosen = best(logits, config.pre_nms_test)
        logits = logits[chosen]
        rows = chosen.clamp(max=count - 1)
        moved = box_ops.decode(proposals.anchors[here][rows], proposals.deltas[0, here][rows], rpn.WEIGHTS)
        moved = _clip(moved, limits)
        good = moved.isfinite().all(dim=1) & logits.isfinite() & box_ops.has_area(moved)
        boxes.append(torch.where(good[:, None], moved, 0.0))
        scores.append(torch.where(good, logits, LOWEST))
        first += count
    every, objectness = torch.stack(boxes), torch.stack(scores)
    mask = kept(every, objectness, config.nms_threshold)
    found = torch.where(mask[:, :, None], every, 0.0).flatten(0, 1)
    objectness = torch.where(mask, objectness, LOWEST).flatten()
    if (missing := config.post_nms_test - objectness.shape[0]) > 0:
        found, objectness = F.pad(found, (0, 0, 0, missing)), F.pad(objectness, (0, missing), value=LOWEST)
    return found[best(objectness, config.post_nms_test)]


def _clip(boxes: Tensor, limits: Tensor) -> Tensor:
    """As `boxes.clip`, at a border that is known when the program runs."""
    return torch.minimum(boxes.clamp(min=0), limits)


def fixed_detections(
    head: SecondStage, logits: Tensor, deltas: Tensor, proposals: Tensor, limits: Tensor
) -> FixedDetections:
    """logits: `[R, K + 1]`. deltas: `[R, K, 4]`. proposals: `[R, 4]`, those without area are padding."""
    config = head.config
    boxes = box_ops.decode(proposals[:, None], deltas, head.WEIGHTS)
    scores = logits.softmax(dim=1)
    real = box_ops.has_area(proposals) & boxes.isfinite().all(dim=2).all(dim=1) & scores.isfinite().all(dim=1)
    scores = scores[:, :-1]
    scores = torch.where(real[:, None] & (scores > config.score_threshold), scores, LOWEST)
    boxes = torch.where(real[:, None, None], _clip(boxes, limits), 0.0)
    mask = kept(boxes.transpose(0, 1), scores.t(), config.nms_threshold).t()
    scores = torch.where(mask, scores, -1.0).flatten()
    chosen = best(scores, min(scores.shape[0], config.detections_per_image))
    boxes, scores, labels = boxes.flatten(0, 1)[chosen], scores[chosen], chosen % deltas.shape[1]
    valid = (scores >= 0) & box_ops.has_area(boxes)
    return {
        "boxes": torch.where(valid[:, None], boxes, 0.0),
        "scores": torch.where(valid, scores, 0.0),
        "labels": torch.where(valid, labels, 0),
        "valid": valid,
    }
