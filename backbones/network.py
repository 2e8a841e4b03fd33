"""The network that a spec describes: stem, three stages of normal cells, a reduction cell between them.

Letters: N images, C channels, H W pixels, K classes.
"""

import copy
import logging
import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from backbones.auxiliary import AuxiliaryHead
from backbones.base import Classifier, FeatureInfo, Split
from backbones.cell import CellModule, DropPath, MapShape, State, drop_path_keep
from backbones.fused import FusedCell
from backbones.fused_operations import folded
from backbones.layers import Layers
from backbones.plan import live_outputs, plan_cells
from backbones.separable import SeparableConv
from backbones.spec import ACTIVATION_MEMORY, HEAD_INITS, NetworkSpec, Preprocessing

log = logging.getLogger(__name__)

AUXILIARY_SMALLEST_MAP = 5
"""Side of the map below which the auxiliary head's 5x5 pooling has no window."""


class NASNet(Classifier):
    """`[N, in_channels, H, W]` normalised images to `[N, K]` logits. Only what the logits need is built.

    Hooks on cells see maps that nothing changes afterwards: the ReLU of the output, but in `endpoints`, and
    where another cell reads the output itself.

    num_classes: K; `spec.default_classes` where None.
    drop_path_keep: probability that a path of the last cell survives at the end of training, in (0, 1].
    dropout: probability before the classifier. auxiliary: build the auxiliary head; it is left out, and
    logged, where its map is below 5x5, and `self.auxiliary` is None then. head_init: see `reset_parameters`.
    shapes: of the outputs, the stem's first.
    """

    spec: NetworkSpec
    stem: nn.Module
    auxiliary: AuxiliaryHead | None

    def __init__(
        self,
        spec: NetworkSpec,
        num_classes: int | None = None,
        *,
        drop_path_keep: float = 1.0,
        dropout: float = 0.0,
        auxiliary: bool = False,
        head_init: str = "fan_in",
    ) -> None:
        super().__init__(spec, spec.default_classes if num_classes is None else num_classes, drop_path_keep)
        half = (0.5,) * spec.in_channels
        self.preprocessing = Preprocessing(spec.image_size, half, half)
        norm, counts = (spec.batch_norm_eps, spec.batch_norm_momentum), spec.strided_average_counts_padding
        layers = Layers(spec.padding, *norm, counts)
        self.plans = plan_cells(spec)
        self.stem = nn.Sequential(
            nn.Conv2d(spec.in_channels, spec.stem_filters, 3, stride=2, bias=False)  # VALID, as in TF-slim
            if spec.stem == "imagenet"
            else layers.conv(spec.in_channels, spec.stem_filters, 3),
            layers.norm(spec.stem_filters),
        )
        shapes = [MapShape(spec.stem_filters, spec.stem_stride)]
        shapes += [MapShape(plan.width, plan.stride) for plan in self.plans]
        self.shapes, live = shapes, live_outputs(self.plans)
        self.cells = nn.ModuleDict()
        for index, plan in enumerate(self.plans, start=1):
            shape, prev = shapes[plan.h], None if plan.h_prev is None else shapes[plan.h_prev]
            if index in live:
                cell = CellModule(plan.cell, layers, shape, prev, plan.channels, plan.reduction)
                self.cells[plan.name] = cell
        # Outputs that a cell takes as they are; of all others only the ReLU is read.
        self._read_raw = {
            plan.inputs[1]
            for plan in self.plans
            if plan.name in self.cells and isinstance(self.cells[plan.name].fit_prev, nn.Identity)
        }
        # The last map of each stride but the stem convolution's; keys are indices into the outputs.
        last = {shapes[index].stride: index for index in sorted(live) if index}
        self.taps = {index: f"c{int(math.log2(stride))}" for stride, index in last.items()}
        self.feature_info = [
            FeatureInfo(self.taps[index], shapes[index].channels, stride) for stride, index in last.items()
        ]
        second_reduction = next(plan.h for plan in self.plans if plan.name == "reduction_1")
        self._auxiliary_tap = max(index for index in live if index <= second_reduction)
        self.auxiliary = self._auxiliary_head(layers, shapes) if auxiliary else None
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(shapes[-1].channels, self.num_classes)
        self.reset_parameters(head_init)
        self.set_progress(1.0)

    def _auxiliary_head(self, layers: Layers, shapes: list[MapShape]) -> AuxiliaryHead | None:
        shape, size = shapes[self._auxiliary_tap], self.spec.image_size
        side = -(-self.spec.stem_side(size) // (shape.stride // self.spec.stem_stride))
        if side < AUXILIARY_SMALLEST_MAP:
            log.info("No auxiliary head: its map is %dx%d at %d px, it needs 5x5", side, side, size)
            return None
        return AuxiliaryHead(layers, shape.channels, side, self.num_classes)

    def reset_parameters(self, head_init: str = "fan_in") -> None:
        """TF's variance scaling: factor 2, fan out, truncated normal (docs/nasnet.md, section 4.7).

        head_init: of the two classifiers. `fan_in`: uniform in +-1/sqrt(inputs), so that the first loss is
        near ln K. `fan_out`: TF's rule for them, too, which starts them far too wide for few classes.
        Raises ValueError for another.
        """
        if head_init not in HEAD_INITS:
            raise ValueError(f"head_init = {head_init!r}, expected one of {', '.join(HEAD_INITS)}")
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                # A depthwise filter feeds one channel, hence the groups (docs/nasnet.md, T13).
                groups = module.groups if isinstance(module, nn.Conv2d) else 1
                fan_out = module.weight.shape[0] * module.weight[0, 0].numel() / groups
                std = math.sqrt(1.3 * 2.0 / fan_out)
                if isinstance(module, nn.Linear) and head_init == "fan_in":
                    bound = module.in_features**-0.5
                    nn.init.uniform_(module.weight, -bound, bound)
                else:
                    nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def set_progress(self, progress: float) -> None:
        for index, plan in enumerate(self.plans):
            keep = drop_path_keep(index, len(self.plans), progress, self.drop_path_keep)
            for module in self.cells[plan.name].modules() if plan.name in self.cells else ():
                if isinstance(module, DropPath):
                    module.active = self.drop_path_keep < 1.0
                    module.keep = keep

    def set_activation_memory(self, mode: str) -> None:
        """What training keeps for the backward pass; gradients and batch norm's statistics do not change.

        mode: `keep`, everything; `lean`, separable convolutions compute half of theirs again, and do not call
        their layers, nor the hooks on those; `checkpoint`, cells keep their inputs alone, and hooks within
        them are called again in the backward pass. `torch.compile` and the gradients of `torch.func` cannot
        take `checkpoint`. The figures are in docs/performance.md. Raises ValueError.
        """
        if mode not in ACTIVATION_MEMORY:
            known = ", ".join(ACTIVATION_MEMORY)
            raise ValueError(f"activation memory {mode!r}, expected one of {known}")
        for module in self.cells.modules():
            if isinstance(module, SeparableConv):
                module.lean = mode == "lean"
            elif isinstance(module, CellModule):
                module.checkpoint = mode == "checkpoint"

    def fuse(self) -> "NASNet":
        """A copy for inference: the same logits, features and end points, faster, and not trainable.

        Batch norm is folded, 1x1 convolutions are matrix products (`backbones.fused`); the auxiliary head is
        left out. Maps and, best, images are in channels_last. It refuses autocast; another precision is
        a matter of `net.fuse().to(torch.bfloat16)`. It is for eager use: compile or export this network
        instead of its fused copy.

        Raises ValueError for norms that are not batch norm with running statistics. The copy raises it where
        gradients are asked of it.
        """
        if self.fused:
            return copy.deepcopy(self)
        net = copy.deepcopy(self, {id(self.auxiliary): None})
        convolution, norm = cast(Iterable[Any], net.stem)
        cells = cast(Mapping[str, CellModule], net.cells)
        net.stem, net.fused = folded(convolution, norm), True
        net.cells = nn.ModuleDict({name: FusedCell(cell, convolution.weight) for name, cell in cells.items()})
        return net.to(memory_format=torch.channels_last).eval().requires_grad_(False)

    def run(self, x: Tensor, taps: Collection[int] = (), raw: Collection[int] = ()) -> dict[int, State]:
        """Outputs of the last cell and in `taps`; see `run_cells`."""
        outputs = self.run_stem(x)
        self.run_cells(outputs, taps=taps, raw=raw)
        return outputs

    def run_stem(self, x: Tensor) -> dict[int, State]:
        self._check_size(x)
        self.check_fused(x)
        return {0: State(self.stem(x))}

    def run_cells(
        self,
        outputs: dict[int, State],
        *,
        first: int = 0,
        last: int | None = None,
        taps: Collection[int] = (),
        raw: Collection[int] = (),
    ) -> None:
        """Adds what the cells `plans[first:last]` give; outputs not in `taps` go when nothing needs them.

        raw: outputs to keep as they are before the ReLU; others may be kept after it alone.
        """
        for index, plan in enumerate(self.plans[first:last], start=first + 1):
            if plan.name in self.cells:
                cell: Any = self.cells[plan.name]
                h, h_prev = (outputs.get(output) for output in plan.inputs)
                activate = index not in raw and index not in self._read_raw
                output = cell(h and h.read_by(cell.fit), h_prev and h_prev.read_by(cell.fit_prev), activate)
                outputs[index] = State(output, output if activate else None)
            # The skip flag reaches back furthest: from the next cell, three outputs.
            for old in [old for old in outputs if old < index - 2 and old not in taps]:
                del outputs[old]

    def _check_size(self, x: Tensor) -> None:
        if min(x.shape[-2:]) < (smallest := self.spec.smallest_image):
            raise ValueError(
                f"images of {x.shape[-2]}x{x.shape[-1]} px, the network needs at least {smallest}"
            )

    def check_fused(self, x: Tensor) -> None:
        """Raises ValueError where a fused network is asked for what it cannot do with the maps `x`."""
        if not self.fused:
            return
        if torch.is_autocast_enabled(x.device.type):
            raise ValueError(
                "a fused network does not run under autocast: leave it, or convert the network, "
                "as in net.fuse().to(torch.bfloat16)"
            )
        if torch.is_grad_enabled() and (x.requires_grad or next(self.parameters()).requires_grad):
            raise ValueError(
                "a fused network computes no gradients, but its images or weights require them: "
                "use the network that it was made of, or torch.no_grad()"
            )

    def _classify(self, output: State) -> Tensor:
        return self.classifier(self.dropout(output.relu.mean(dim=(2, 3))))

    def forward(self, x: Tensor) -> Tensor:
        return self._classify(self.run(x)[len(self.plans)])

    def forward_with_aux(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.auxiliary is None or not self.training:
            return self(x), None
        outputs = self.run(x, {self._auxiliary_tap})
        return self._classify(outputs[len(self.plans)]), self.auxiliary(outputs[self._auxiliary_tap].relu)

    def features(self, x: Tensor) -> dict[str, Tensor]:
        outputs = self.run(x, self.taps)
        return {name: outputs[index].relu for index, name in self.taps.items()}

    def split(self, stride: int = 16) -> Split:
        return CellSplit(self, stride)

    def remove_classifier(self) -> None:
        self.classifier = nn.Identity()  # type: ignore[assignment]
        self.auxiliary = None

    def endpoints(self, x: Tensor) -> dict[str, Tensor]:
        """Outputs (pre-activation) of the stem and of every cell by name, in order of execution."""
        outputs = self.run(x, range(len(self.plans)), raw=range(len(self.plans) + 1))
        return {("stem", *(plan.name for plan in self.plans))[index]: outputs[index].raw for index in outputs}


class CellSplit(Split):
    """Before the second reduction cell: the map is the two states that this cell is given, concatenated.

    They are the outputs of the last two cells of the stage at stride 16, before their ReLU (cells 10 and 11
    of NASNet-A 6 @ 4032), in this order. One that no later cell depends on is not built, so it is not there.
    Source: TF Object Detection API `faster_rcnn_nas_feature_extractor.py`; docs/nasnet.md, section 7.
    """

    def __init__(self, network: NASNet, stride: int) -> None:
        """Raises ValueError where the second reduction does not start at that stride."""
        self._network = network
        self._last = next(i for i, plan in enumerate(network.plans) if plan.name == "reduction_1")
        plan = network.plans[self._last]
        self._states = [
            state
            for state in (plan.h_prev, plan.h)
            if state is not None and network.plans[state - 1].name in network.cells
        ]
        shapes = [network.shapes[state] for state in self._states]
        self.stride = shapes[-1].stride
        if self.stride != stride:
            raise ValueError(
                f"a NASNet with the {network.spec.stem} stem is split at stride {self.stride}, not {stride}"
            )
        self._widths = [shape.channels for shape in shapes]
        self.channels = sum(self._widths)
        self.tail_channels = network.shapes[-1].channels
        names = (later.name for later in network.plans[self._last :])
        self.tail_modules = tuple(f"cells.{name}" for name in names if name in network.cells)

    def trunk(self, images: Tensor) -> Tensor:
        outputs = self._network.run_stem(images)
        self._network.run_cells(outputs, last=self._last, taps=self._states, raw=self._states)
        return torch.cat([outputs[state].raw for state in self._states], dim=1)

    def tail(self, crops: Tensor) -> Tensor:
        network = self._network
        network.check_fused(crops)
        parts = zip(self._states, crops.split(self._widths, dim=1), strict=True)
        outputs = {state: State(part) for state, part in parts}
        network.run_cells(outputs, first=self._last)
        return outputs[len(network.plans)].relu
