"""The network that a spec describes: stem, three stages of normal cells, a reduction cell between them.

Letters: N images, C channels, H W pixels, K classes.
"""

import logging
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from backbones.cell import CellModule, DropPath, MapShape, drop_path_keep
from backbones.operations import Layers
from backbones.spec import NetworkSpec, Preprocessing

log = logging.getLogger(__name__)

AUXILIARY_SMALLEST_MAP = 5
"""Side of the map below which the auxiliary head's 5x5 pooling has no window."""


@dataclass(frozen=True)
class FeatureInfo:
    """A map that `features` returns: its name (`c` and log2 of the stride), channels, pixels per step."""

    name: str
    channels: int
    stride: int


@dataclass(frozen=True)
class CellPlan:
    """Where a cell stands. h, h_prev: index into the outputs so far, 0 being the stem; None: no such."""

    name: str
    reduction: bool
    channels: int
    h: int
    h_prev: int | None


def plan_cells(spec: NetworkSpec) -> list[CellPlan]:
    """The cells in order of execution. Source: TF-slim `nasnet.py`; NASNET.md, sections 4.1 to 4.3."""
    plans: list[CellPlan] = []

    def add(name: str, reduction: bool, channels: int, h_prev: int | None = None) -> None:
        h = len(plans)
        plans.append(
            CellPlan(name, reduction, channels, h, (h - 1 if h else None) if h_prev is None else h_prev)
        )

    if spec.stem == "imagenet":
        add("stem_0", True, spec.filters // 4)
        add("stem_1", True, spec.filters // 2)
    for stage in range(3):
        channels, skipped = spec.filters * 2**stage, None
        if stage:
            add(f"reduction_{stage - 1}", True, channels)
            skipped = plans[-1].h_prev if spec.skip_reduction_input else None
        for cell in range(spec.cells_per_stage):
            add(
                f"cell_{stage * spec.cells_per_stage + cell}",
                False,
                channels,
                skipped if cell == 0 else None,
            )
    return plans


class AuxiliaryHead(nn.Module):
    """Classifier on the last map before the second reduction, for training only. `[N, C, H, W]` to `[N, K]`.

    map_size: H and W; the head is tied to it. Source: TF-slim `nasnet.py`; NASNET.md, section 4.5.
    """

    def __init__(self, layers: Layers, channels: int, map_size: int, num_classes: int) -> None:
        super().__init__()
        pooled = (map_size - 5) // 3 + 1
        self.reduce = nn.Sequential(
            nn.ReLU(), nn.AvgPool2d(5, stride=3), layers.conv(channels, 128), layers.norm(128), nn.ReLU()
        )
        self.full_map = nn.Sequential(
            nn.Conv2d(128, 768, pooled, bias=False), layers.norm(768), nn.ReLU(), nn.Flatten()
        )
        self.classifier = nn.Linear(768, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.full_map(self.reduce(x)))


class NASNet(nn.Module):
    """`[N, in_channels, H, W]` normalised images to `[N, K]` logits.

    drop_path_keep: probability that a path of the last cell survives at the end of training, in (0, 1].
    dropout: probability before the classifier. auxiliary: build the auxiliary head; it is left out, and
    logged, where its map is below 5x5, and `self.auxiliary` is None then.
    """

    def __init__(
        self,
        spec: NetworkSpec,
        num_classes: int = 1000,
        *,
        drop_path_keep: float = 1.0,
        dropout: float = 0.0,
        auxiliary: bool = False,
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes = {num_classes}, must be at least 1")
        self.spec, self.num_classes, self.drop_path_keep = spec, num_classes, drop_path_keep
        self.preprocessing = Preprocessing(spec.image_size)
        self.classes: list[str] | None = None
        layers = Layers(spec.padding, spec.batch_norm_eps, spec.batch_norm_momentum)
        self.plans = plan_cells(spec)
        imagenet = spec.stem == "imagenet"
        self.stem = nn.Sequential(
            nn.Conv2d(spec.in_channels, spec.stem_filters, 3, stride=2, bias=False)  # VALID, as in TF-slim
            if imagenet
            else layers.conv(spec.in_channels, spec.stem_filters, 3),
            layers.norm(spec.stem_filters),
        )
        shapes = [MapShape(spec.stem_filters, 2 if imagenet else 1)]
        self.cells = nn.ModuleDict()
        for plan in self.plans:
            genotype_cell = spec.genotype.reduction if plan.reduction else spec.genotype.normal
            shape, prev = shapes[plan.h], None if plan.h_prev is None else shapes[plan.h_prev]
            self.cells[plan.name] = CellModule(
                genotype_cell, layers, shape, prev, plan.channels, plan.reduction
            )
            stride = shape.stride * 2 if plan.reduction else shape.stride
            shapes.append(MapShape(plan.channels * len(genotype_cell.concat), stride))
        # The last map of each stride but the stem convolution's; keys are indices into the outputs.
        last = {shape.stride: index for index, shape in enumerate(shapes) if index}
        self._taps = {index: f"c{int(math.log2(stride))}" for stride, index in last.items()}
        self.feature_info = [
            FeatureInfo(self._taps[index], shapes[index].channels, stride) for stride, index in last.items()
        ]
        self._auxiliary_tap = next(plan.h for plan in self.plans if plan.name == "reduction_1")
        self.auxiliary = self._auxiliary_head(layers, shapes) if auxiliary else None
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(shapes[-1].channels, num_classes)
        self.reset_parameters()
        self.set_progress(1.0)

    def _auxiliary_head(self, layers: Layers, shapes: list[MapShape]) -> AuxiliaryHead | None:
        shape, size = shapes[self._auxiliary_tap], self.spec.image_size
        side = (size - 3) // 2 + 1 if self.spec.stem == "imagenet" else size
        side = -(-side // (shape.stride // shapes[0].stride))
        if side < AUXILIARY_SMALLEST_MAP:
            log.info("No auxiliary head: its map is %dx%d at %d px, it needs 5x5", side, side, size)
            return None
        return AuxiliaryHead(layers, shape.channels, side, self.num_classes)

    def reset_parameters(self) -> None:
        """TF's variance scaling: factor 2, fan out, truncated normal (NASNET.md, section 4.7)."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                # A depthwise filter feeds one channel, hence the groups (NASNET.md, T13).
                groups = module.groups if isinstance(module, nn.Conv2d) else 1
                fan_out = module.weight.shape[0] * module.weight[0, 0].numel() / groups
                std = math.sqrt(1.3 * 2.0 / fan_out)
                nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def set_progress(self, progress: float) -> None:
        """Sets the drop-path schedule. progress: optimiser steps done / planned, in [0, 1]."""
        for index, name in enumerate(self.cells):
            keep = drop_path_keep(index, len(self.cells), progress, self.drop_path_keep)
            for module in self.cells[name].modules():
                if isinstance(module, DropPath):
                    module.keep = keep

    def _run(self, x: Tensor, taps: Collection[int]) -> dict[int, Tensor]:
        """Outputs (pre-activation) at the indices in `taps`; others are freed after their last reader."""
        self._check_size(x)
        outputs = {0: self.stem(x)}
        for index, (plan, cell) in enumerate(zip(self.plans, self.cells.values(), strict=True), start=1):
            h = outputs[plan.h]
            outputs[index] = cell(h, h if plan.h_prev is None else outputs[plan.h_prev])
            for old in [old for old in outputs if old < index - 2 and old not in taps]:
                del outputs[old]
            if index >= max(taps):
                break
        return {index: outputs[index] for index in taps}

    def _check_size(self, x: Tensor) -> None:
        smallest = self.spec.smallest_image
        if min(x.shape[-2:]) < smallest:
            raise ValueError(
                f"images of {x.shape[-2]}x{x.shape[-1]} px, the network needs at least {smallest}"
            )

    def _classify(self, x: Tensor) -> Tensor:
        return self.classifier(self.dropout(F.relu(x).mean(dim=(2, 3))))

    def forward(self, x: Tensor) -> Tensor:
        last = len(self.plans)
        return self._classify(self._run(x, {last})[last])

    def forward_with_aux(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits and, in training where the network has the head, auxiliary logits; else None."""
        if self.auxiliary is None or not self.training:
            return self(x), None
        last = len(self.plans)
        outputs = self._run(x, {self._auxiliary_tap, last})
        return self._classify(outputs[last]), self.auxiliary(outputs[self._auxiliary_tap])

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """The last map of each stride, after the ReLU: `{"c2": [N, C, H/4, W/4], …}`, see `feature_info`."""
        return {self._taps[index]: F.relu(output) for index, output in self._run(x, self._taps).items()}

    def endpoints(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Name and output (pre-activation) of the stem and of every cell, in order of execution."""
        outputs = self._run(x, range(len(self.plans) + 1))
        return zip(["stem", *self.cells], outputs.values(), strict=True)
