"""Box arithmetic of Faster R-CNN in Detectron2's semantics.

Legend: `A` anchors over all levels, `R` boxes, `G` ground-truth boxes of one image, `L` levels.
Boxes are `[R, 4]` xyxy in pixels of the resized image; deltas are `[R, 4]` (dx, dy, dw, dh).
Written here rather than taken from torchvision, whose anchors are rounded and whose strides are
image // map, whose matcher refuses images without boxes, and whose coder is private.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import batched_nms, nms

from detection.model.config import RpnConfig, SecondStageConfig

LARGEST_LOG_SCALE = math.log(1000.0 / 16)
"""Bound of dw and dh before `exp`: a 16 px anchor grows to 1,000 px at most."""

IGNORED = -1
"""Label of an anchor or a proposal that takes no part in the loss."""


def cell_anchors(sizes: Sequence[float], aspect_ratios: Sequence[float]) -> Tensor:
    """Anchors centred on (0, 0), not rounded: `[len(sizes) * len(aspect_ratios), 4]` float32.

    sizes: square root of the area, pixels. aspect_ratios: height / width.
    Source: Detectron2 `DefaultAnchorGenerator.generate_cell_anchors`."""
    anchors = []
    for size in sizes:
        for ratio in aspect_ratios:
            width = math.sqrt(size**2 / ratio)
            height = ratio * width
            anchors.append([-width / 2, -height / 2, width / 2, height / 2])
    return torch.tensor(anchors)


def grid_anchors(cells: Tensor, height: int, width: int, stride: int) -> Tensor:
    """`cells` moved to every place of a map: `[height * width * len(cells), 4]`, rows first.

    The first place lies at pixel 0 (offset 0). stride: pixels of the image per place, as the
    backbone states it, never image // map, which is 15 for 600 px over 38 places."""
    rows = torch.arange(height, dtype=torch.float32, device=cells.device) * stride
    columns = torch.arange(width, dtype=torch.float32, device=cells.device) * stride
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    shifts = torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4)
    return (shifts + cells).reshape(-1, 4)


def encode(boxes: Tensor, targets: Tensor, weights: Sequence[float]) -> Tensor:
    """Deltas `[R, 4]` that move `boxes` onto `targets`, both `[R, 4]` with positive sides."""
    sides = boxes[:, 2:] - boxes[:, :2]
    target_sides = targets[:, 2:] - targets[:, :2]
    shift = (targets[:, :2] + 0.5 * target_sides - boxes[:, :2] - 0.5 * sides) / sides
    scale = torch.log(target_sides / sides)
    return torch.cat([shift, scale], dim=1) * boxes.new_tensor(weights)


def decode(boxes: Tensor, deltas: Tensor, weights: Sequence[float]) -> Tensor:
    """Moves boxes `[..., 4]` by deltas that broadcast against them; float32 whatever the deltas are."""
    deltas = deltas.float()
    boxes = boxes.float()
    deltas = deltas / deltas.new_tensor(weights)
    sides = boxes[..., 2:] - boxes[..., :2]
    centres = boxes[..., :2] + 0.5 * sides + deltas[..., :2] * sides
    half = 0.5 * torch.exp(deltas[..., 2:].clamp(max=LARGEST_LOG_SCALE)) * sides
    return torch.cat([centres - half, centres + half], dim=-1)


def match(overlaps: Tensor, low: float, high: float, *, keep_best: bool) -> tuple[Tensor, Tensor]:
    """Ground-truth box with the largest overlap for each candidate, and what the overlap makes of it.

    overlaps: `[G, R]` IoU. Returns indices `[R]` int64 into G (0 where G is empty) and kinds `[R]`
    int8: 1 from `high` up, 0 below `low`, else IGNORED; all 0 where G is empty.
    keep_best: candidates with the best overlap of some ground-truth box count as 1 whatever it is
    (Faster R-CNN, section 3.1.2), ties included; their index stays the one they overlap most."""
    if overlaps.shape[0] == 0:
        nothing = torch.zeros(overlaps.shape[1], dtype=torch.int64, device=overlaps.device)
        return nothing, nothing.to(torch.int8)
    best, indices = overlaps.max(dim=0)
    kinds = torch.full_like(indices, IGNORED, dtype=torch.int8)
    kinds[best < low] = 0
    kinds[best >= high] = 1
    if keep_best:
        kinds[(overlaps == overlaps.amax(dim=1, keepdim=True)).any(dim=0)] = 1
    return indices, kinds


def generator(seed: int | None, stage: int) -> torch.Generator | None:
    """What `sample` draws from for one image; None: torch's global one. stage: 0 anchors, 1 proposals."""
    return None if seed is None else torch.Generator().manual_seed(seed ^ stage)


def sample(
    positive: Tensor,
    negative: Tensor,
    count: int,
    positive_fraction: float,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Random indices of at most `count` candidates, at most `positive_fraction` of them positive.

    positive, negative: masks `[R]`. Missing positives are filled up with negatives. Draws one
    permutation of the positives, then one of the negatives, in this order, as Detectron2 does, so that
    equal seeds give equal samples in both engines. generator: on the CPU, so that a GPU draws the same;
    None: torch's global one of the device."""
    positives = positive.nonzero().squeeze(1)
    negatives = negative.nonzero().squeeze(1)
    num_positive = min(len(positives), int(count * positive_fraction))
    num_negative = min(len(negatives), count - num_positive)
    device = positives.device if generator is None else "cpu"
    chosen = torch.randperm(len(positives), device=device, generator=generator)[:num_positive]
    rest = torch.randperm(len(negatives), device=device, generator=generator)[:num_negative]
    return positives[chosen.to(positives.device)], negatives[rest.to(negatives.device)]


def matched_samples(
    overlaps: Tensor,
    thresholds: tuple[float, float],
    config: RpnConfig | SecondStageConfig,
    generator: torch.Generator | None,
    *,
    keep_best: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """What `match` and `sample` make of the candidates of one image: indices `[R]`, positive, negative."""
    indices, kinds = match(overlaps, *thresholds, keep_best=keep_best)
    size, share = config.batch_size_per_image, config.positive_fraction
    return indices, *sample(kinds == 1, kinds == 0, size, share, generator)


def pyramid_levels(boxes: Tensor, first_level: int, last_level: int) -> Tensor:
    """Level of the pyramid for each box, `[R]` int64 counted from `first_level` (log2 of its stride).

    A box of 224 x 224 px belongs to level 4 (FPN, equation 1). The epsilon stands inside the
    logarithm as in Detectron2's `assign_boxes_to_levels`; torchvision adds its own outside."""
    sides = boxes[:, 2:] - boxes[:, :2]
    size = torch.sqrt(sides[:, 0] * sides[:, 1])
    levels = torch.floor(4 + torch.log2(size / 224 + 1e-8))
    return levels.clamp(first_level, last_level).to(torch.int64) - first_level


def clip(boxes: Tensor, height: float, width: float) -> Tensor:
    """Boxes `[..., 4]` cut at the border of an image of `height` x `width` pixels."""
    x = boxes[..., 0::2].clamp(0, width)
    y = boxes[..., 1::2].clamp(0, height)
    return torch.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], dim=-1)


def has_area(boxes: Tensor) -> Tensor:
    """Mask `[R]` of the boxes whose two sides are longer than 0."""
    return (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])


def best(scores: Tensor, count: int) -> Tensor:
    """Indices of the `count` highest of `[R]`, the highest first; of equal ones the first come first.

    `topk` gives equal scores in any order, another one in each runtime."""
    if scores.device.type == "cpu" and not torch.compiler.is_compiling() and count < len(scores) // 4:
        # On a CPU 200,000 anchors are sorted in 27 ms; `topk` takes 1 ms.
        lower = scores < scores.topk(count).values[-1]  # NaN is not, and comes first
        few = lower.logical_not().nonzero().squeeze(1)
        return few[scores[few].sort(descending=True, stable=True).indices[:count]]
    return scores.sort(descending=True, stable=True).indices[:count]


def nms_by_group(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
    """Indices of the boxes that NMS within each group keeps, in the order of `best`.

    groups: `[R]` int64. torchvision's `batched_nms`, which a GPU is spared many calls by, gives equal scores
    in any order where it goes group by group itself."""
    if boxes.device.type == "cpu":
        kept = [here[nms(boxes[here], scores[here], threshold)] for here in _members(groups)]
        indices = torch.cat([groups[:0], *kept])
    else:
        indices = batched_nms(boxes, scores, groups, threshold)
    indices = indices.sort().values
    return indices[best(scores[indices], len(indices))]


def _members(groups: Tensor) -> tuple[Tensor, ...]:
    """Indices of each group's members, ascending."""
    counts = groups.unique(return_counts=True)[1]
    return groups.argsort(stable=True).split(counts.tolist())
