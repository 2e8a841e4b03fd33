"""The first stage: anchors on the maps of the backbone become proposals, in Detectron2's semantics.

Legend: `N` images, `L` levels, `A` anchors over all levels, `R` boxes, `C` channels.
The head is torchvision's, which agrees with Detectron2's, with a width of its own where one is asked for.
torchvision's `RegionProposalNetwork` is not used: anchors, divisors, loss and filters all differ.
Sources: Detectron2 `rpn.py`, `proposal_utils.py`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import box_iou

from detection.formats import Target
from detection.model import boxes as box_ops
from detection.model.config import RpnConfig


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


class ProposalHead(RPNHead):
    """torchvision's head with a 3x3 convolution that changes the width from `channels` to `hidden`."""

    def __init__(self, channels: int, anchors: int, hidden: int):
        super().__init__(hidden, anchors)
        if hidden != channels:
            convolution = nn.Conv2d(channels, hidden, 3, padding=1)
            nn.init.normal_(convolution.weight, std=0.01)
            nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
            self.conv[0][0] = convolution


class RegionProposals(nn.Module):
    """Scores and moves anchors; one 3x3 and two 1x1 convolutions shared by all levels.

    channels: of every map. strides: of the maps. sizes: of the anchors on each map, as many on all of them.
    hidden: width of the 3x3 convolution."""

    WEIGHTS = (1.0, 1.0, 1.0, 1.0)

    def __init__(
        self,
        config: RpnConfig,
        channels: int,
        strides: Sequence[int],
        sizes: Sequence[Sequence[int]],
        hidden: int,
    ):
        super().__init__()
        self.config = config
        self.strides = tuple(strides)
        self.sizes = tuple(tuple(level) for level in sizes)
        self.head = ProposalHead(channels, len(sizes[0]) * len(config.aspect_ratios), hidden)

    def forward(self, maps: list[Tensor]) -> Proposals:
        """maps: L tensors `[N, C, H, W]`, one per stride."""
        logits, deltas = self.head(maps)
        anchors = []
        for level, stride, sizes in zip(maps, self.strides, self.sizes, strict=True):
            cells = box_ops.cell_anchors(sizes, self.config.aspect_ratios).to(level.device)
            anchors.append(box_ops.grid_anchors(cells, level.shape[2], level.shape[3], stride))
        # [N, anchors per place, H, W] -> [N, H * W * anchors per place], the order of grid_anchors
        logits = [level.permute(0, 2, 3, 1).flatten(1) for level in logits]
        deltas = [level.permute(0, 2, 3, 1).unflatten(3, (-1, 4)).flatten(1, 3) for level in deltas]
        return Proposals(
            torch.cat(anchors),
            torch.cat(logits, dim=1).float(),
            torch.cat(deltas, dim=1).float(),
            [level.shape[0] for level in anchors],
        )

    def losses(self, proposals: Proposals, targets: list[Target]) -> dict[str, Tensor]:
        """Cross-entropy over sampled anchors, L1 over the positive ones among them."""
        anchors, config = proposals.anchors, self.config
        classification = proposals.logits.sum() * 0
        localisation = proposals.deltas.sum() * 0
        for logits, deltas, target in zip(proposals.logits, proposals.deltas, targets, strict=True):
            overlaps = box_iou(target["boxes"], anchors)
            draws = box_ops.generator(target.get("seed"), 0)
            indices, positive, negative = box_ops.matched_samples(
                overlaps, (config.iou_low, config.iou_high), config, draws, keep_best=True
            )
            chosen = logits[torch.cat([positive, negative])]
            wanted = torch.cat([torch.ones_like(positive), torch.zeros_like(negative)]).to(chosen.dtype)
            classification = classification + F.binary_cross_entropy_with_logits(
                chosen, wanted, reduction="sum"
            )
            if len(positive):
                goal = box_ops.encode(anchors[positive], target["boxes"][indices[positive]], self.WEIGHTS)
                localisation = localisation + (deltas[positive] - goal).abs().sum()
        divisor = config.batch_size_per_image * len(targets)
        return {
            "loss_rpn_cls": classification / divisor,
            "loss_rpn_loc": config.box_loss_weight * localisation / divisor,
        }

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
            here = proposals.logits[:, first : first + size]
            chosen.append(torch.stack([box_ops.best(logits, count) for logits in here]) + first)
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
            selected.append(
                boxes[box_ops.nms_by_group(boxes, scores, level_ids, config.nms_threshold)[:after]]
            )
        return selected
