"""Three operators of an exported detector for which each runtime has its own form.

`best`, `kept` and `crops` are opaque while a detector is traced, so that no shape depends on what is found.
`BY_TORCH` is what a `torch.export` program makes of them, `for_onnx` what an ONNX graph does.

Letters: `R` boxes, `G` groups, `C` channels.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import nms

from detection.model import boxes as box_ops
from detection.model.roi_align import roi_align

LOWEST = torch.finfo(torch.float32).min
"""Score of what is no candidate."""
_OFF = -3e38
"""Between `LOWEST` and every score: runtimes leave out what is below before they compare boxes."""


def _best(scores: Tensor, count: int) -> Tensor:
    return box_ops.best(scores, count)


def _kept(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    groups, rows = scores.shape
    candidate = scores > LOWEST
    # One NMS for all groups: each lies on a plane of its own, far enough in float64 for every digit.
    planes = torch.arange(groups, dtype=torch.float64, device=boxes.device)[:, None, None]
    apart = boxes.double() + planes * (boxes.max().double() + 1)
    apart = torch.where(candidate[:, :, None], apart, 0.0).reshape(-1, 4)
    chosen = nms(apart, scores.flatten().double(), threshold)
    mask = torch.zeros(groups * rows, dtype=torch.bool, device=boxes.device).scatter(0, chosen, True)
    return mask.view(groups, rows) & candidate


def _crops(
    maps: Sequence[Tensor], boxes: Tensor, levels: Tensor, strides: Sequence[int], size: int
) -> tuple[Tensor, Tensor]:
    """All boxes are cropped from all maps. From the others than its own a box without area is cropped: it has
    no samples, so it costs nothing and gives zeros, and the sum is the crop of its own map."""
    image = boxes.new_zeros(boxes.shape[0], 1)
    parts = []
    for level, (feature_map, stride) in enumerate(zip(maps, strides, strict=True)):
        rois = torch.cat([image, torch.where((levels == level)[:, None], boxes, 0.0)], dim=1)
        parts.append(roi_align(feature_map, rois, size, stride))
    return torch.stack(parts).sum(dim=0), torch.arange(boxes.shape[0], device=boxes.device)


@torch.library.custom_op("celltransfer::best", mutates_args=())
def best(scores: Tensor, count: int) -> Tensor:
    """Indices of the `count` highest of `[R]`, the highest first; of equal ones the first come first."""
    return _best(scores, count)


@torch.library.custom_op("celltransfer::kept", mutates_args=())
def kept(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Mask `[G, R]` of what NMS within each group keeps of those that score more than `LOWEST`.

    boxes: `[G, R, 4]`, at least 0. scores: `[G, R]`."""
    return _kept(boxes, scores, threshold)


@torch.library.custom_op("celltransfer::crops", mutates_args=())
def crops(
    maps: Sequence[Tensor], boxes: Tensor, levels: Tensor, strides: Sequence[int], size: int
) -> tuple[Tensor, Tensor]:
    """Crops `[R, C, size, size]` in any order, and the row of each box among them.

    maps: `[1, C, H, W]` per stride. boxes: `[R, 4]`, each with an area. levels: `[R]`, which map each is
    cropped from."""
    return _crops(maps, boxes, levels, strides, size)


@best.register_fake
def _(scores: Tensor, count: int) -> Tensor:
    return scores.new_empty(count, dtype=torch.int64)


@kept.register_fake
def _(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    return torch.empty_like(scores, dtype=torch.bool)


@crops.register_fake
def _(
    maps: Sequence[Tensor], boxes: Tensor, levels: Tensor, strides: Sequence[int], size: int
) -> tuple[Tensor, Tensor]:
    count, channels = boxes.shape[0], maps[0].shape[1]
    return maps[0].new_empty(count, channels, size, size), boxes.new_empty(count, dtype=torch.int64)


_OPERATORS = torch.ops.celltransfer
BY_TORCH: dict[Any, Callable[..., Any]] = {
    _OPERATORS.best.default: _best,
    _OPERATORS.kept.default: _kept,
    _OPERATORS.crops.default: _crops,
}
"""To be decomposed by: what a program may hold that is read where this project is not."""


def for_onnx() -> dict[Any, Callable[..., Any]]:
    """Translations for PyTorch's exporter."""
    from onnxscript import opset18

    op: Any = opset18

    def integers(*values: int) -> Any:
        return op.Constant(value_ints=list(values))

    def number(value: float) -> Any:
        return op.Constant(value_float=value)

    def onnx_best(scores: Any, count: int) -> Any:
        _, indices = op.TopK(scores, integers(count), axis=0, largest=1, sorted=1)
        return indices

    def onnx_kept(boxes: Any, scores: Any, threshold: float) -> Any:
        most = op.Constant(value_ints=[2**31 - 1])
        chosen = op.NonMaxSuppression(
            boxes,
            op.Unsqueeze(scores, integers(1)),
            most,
            op.Constant(value_floats=[threshold]),
            op.Constant(value_floats=[_OFF]),
        )
        places = op.Gather(chosen, integers(0, 2), axis=1)  # group and row; the middle is the class, 0
        ones = op.Expand(op.Constant(value_ints=[1]), op.Slice(op.Shape(chosen), integers(0), integers(1)))
        nothing = op.Mul(op.Cast(op.Greater(scores, number(0.0)), to=7), op.Constant(value_int=0))
        return op.Cast(op.ScatterND(nothing, places, ones), to=9)

    def onnx_crops(maps: Sequence[Any], boxes: Any, levels: Any, strides: Sequence[int], size: int) -> Any:
        parts, places = [], []
        for level, (feature_map, stride) in enumerate(zip(maps, strides, strict=True)):
            here = op.Squeeze(op.NonZero(op.Equal(levels, op.Constant(value_int=level))), integers(0))
            places.append(here)
            parts.append(
                op.RoiAlign(
                    feature_map,
                    op.Gather(boxes, here, axis=0),
                    op.Mul(here, op.Constant(value_int=0)),
                    coordinate_transformation_mode="half_pixel",
                    mode="avg",
                    output_height=size,
                    output_width=size,
                    sampling_ratio=0,
                    spatial_scale=1 / stride,
                )
            )
        order = op.Concat(*places, axis=0)
        _, rows = op.TopK(order, op.Shape(order), axis=0, largest=0, sorted=1)
        return op.Concat(*parts, axis=0), rows

    def floor_divided(a: Any, b: Any) -> Any:
        """The exporter's own is cut towards zero, and sizes of maps hold -(-H // 2)."""
        return op.Div(op.Sub(a, op.Mod(a, b)), b)

    return {
        operator.floordiv: floor_divided,
        _OPERATORS.best.default: onnx_best,
        _OPERATORS.kept.default: onnx_kept,
        _OPERATORS.crops.default: onnx_crops,
    }
