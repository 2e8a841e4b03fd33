"""A network cut in two: what sees whole images, and what goes on with crops of its map.

The detector of the paper's section 4.3 and of Faster R-CNN on ResNet run the last stage once per region.
Letters: N images, R regions, C channels, H W pixels.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from backbones.cell import State

if TYPE_CHECKING:
    from backbones.base import FeatureInfo
    from backbones.network import NASNet


class Split(ABC):
    """Two functions over a network's own modules: `tail(trunk(images))` is its last map.

    Made anew wherever it is wanted, by `Backbone.split`: it holds the network and no weights.
    stride: pixels of the image per step of the map. channels: of the map. tail_channels: of what the tail
    gives. tail_modules: names of the network's modules that only the tail runs.
    """

    stride: int
    channels: int
    tail_channels: int
    tail_modules: tuple[str, ...]

    @abstractmethod
    def trunk(self, images: Tensor) -> Tensor:
        """`[N, in_channels, H, W]` normalised images to the map, `[N, channels, H/stride, W/stride]`."""

    @abstractmethod
    def tail(self, crops: Tensor) -> Tensor:
        """`[R, channels, h, w]` to `[R, tail_channels, ceil(h/2), ceil(w/2)]`, after the last activation."""


class CellSplit(Split):
    """Before the second reduction cell: the map is the two states that this cell is given, concatenated.

    They are the outputs of the last two cells of the stage at stride 16, before their ReLU (cells 10 and 11
    of NASNet-A 6 @ 4032), in this order. One that no later cell depends on is not built, so it is not there.
    Source: TF Object Detection API `faster_rcnn_nas_feature_extractor.py`; docs/nasnet.md, section 7.
    """

    def __init__(self, network: "NASNet", stride: int) -> None:
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


class StageSplit(Split):
    """Before the last stage of a network of timm: the map is that of the stage before.

    trunk: images to the map. stages: what follows, in order, by the names that they have in the network.
    """

    def __init__(
        self,
        trunk: Callable[[Tensor], Tensor],
        stages: Mapping[str, nn.Module],
        info: "FeatureInfo",
        last: "FeatureInfo",
    ) -> None:
        self._trunk, self._stages = trunk, list(stages.values())
        self.stride, self.channels, self.tail_channels = info.stride, info.channels, last.channels
        self.tail_modules = tuple(stages)

    def trunk(self, images: Tensor) -> Tensor:
        return self._trunk(images)

    def tail(self, crops: Tensor) -> Tensor:
        for stage in self._stages:
            crops = stage(crops)
        return crops
