"""Our networks as timm's. Importing this registers the zoo: `timm.create_model("nasnet_a_mobile", …)`.

The other way, timm's networks as ours, is `timm_backbone.py`. Letters as in `network.py`.
"""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from backbones.base import FeatureInfo
from backbones.network import NASNet
from backbones.plan import live_outputs, plan_cells
from backbones.spec import NetworkSpec, Preprocessing
from backbones.timm_spec import without_timm
from backbones.zoo import ZOO

try:
    from timm.layers import create_classifier
    from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
except ImportError as error:
    raise without_timm(error) from None


class TimmFeatureInfo(dict[str, Any], FeatureInfo):
    """A `FeatureInfo` that is timm's dictionary of `num_chs`, `reduction` and `module` at the same time."""

    def __init__(self, name: str, channels: int, stride: int, module: str) -> None:
        FeatureInfo.__init__(self, name, channels, stride)
        self.update(num_chs=channels, reduction=stride, module=module)


class TimmNASNet(NASNet):
    """A NASNet with the methods and attributes that timm's users expect; its weights are `NASNet`'s, by name.

    feature_info: timm's, too; the stem is `c1`, before the cells, where it has a stride of its own, so that
    `features` gives it as well. All maps are taken after their ReLU. global_pool: as in timm, `""` for none.
    num_classes: 0 for none. drop_path_rate: at the last cell; it falls linearly towards the image.
    """

    global_pool: Any

    def __init__(
        self,
        spec: NetworkSpec,
        num_classes: int | None = None,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        global_pool: str = "avg",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if not 0 <= drop_path_rate < 1:
            raise ValueError(f"drop_path_rate = {drop_path_rate}, must be in [0, 1)")
        with contextlib.nullcontext() if device is None else torch.device(device):
            super().__init__(
                dataclasses.replace(spec, in_channels=in_chans),
                num_classes or None,  # 0 is for reset_classifier below
                drop_path_keep=1 - drop_path_rate,
                dropout=drop_rate,
            )
        self.in_chans, self.drop_rate = in_chans, drop_rate
        if spec.stem == "imagenet":
            self.taps = {0: "c1", **self.taps}
            self.feature_info = [FeatureInfo("c1", spec.stem_filters, spec.stem_stride), *self.feature_info]
        self._levels = list(self.taps)
        modules = ["stem", *(f"cells.{plan.name}" for plan in self.plans)]
        self.feature_info = [
            TimmFeatureInfo(info.name, info.channels, info.stride, modules[index])
            for info, index in zip(self.feature_info, self._levels, strict=True)
        ]
        self.num_features = self.classifier.in_features
        self.to(dtype=dtype)
        self.reset_classifier(self.num_classes if num_classes is None else num_classes, global_pool)

    @property
    def unstorable(self) -> str | None:
        if (pool := self.global_pool.pool_type) != "avg":
            return f"a network of global_pool = {pool!r} cannot be stored; only 'avg' can"
        return super().unstorable

    def get_classifier(self) -> nn.Module:
        return self.classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A fresh classifier. For 0 none: `forward` gives pooled features, or maps where nothing pools."""
        weight = next(self.parameters())
        pool = self.global_pool.pool_type if global_pool is None else global_pool
        self.global_pool, classifier = create_classifier(self.num_features, num_classes, pool)
        self.classifier = classifier.to(device=weight.device, dtype=weight.dtype).train(self.training)
        self.num_classes = num_classes
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()

    def forward_features(self, x: Tensor) -> Tensor:
        """`[N, num_features, H, W]` after the ReLU, not pooled."""
        return self.run(x)[len(self.plans)].relu

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.dropout(self.global_pool(x))
        return x if pre_logits else self.classifier(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The maps of `feature_info`, in order, before them what `forward_features` gives.

        indices: which; the last n for an int, all for None. norm, stop_early: without effect, as there is no
        last norm, and `prune_intermediate_layers` is what saves the work.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt = {output_fmt!r}, only NCHW is known")
        levels = sorted({self._levels[index] for index in self._taken(indices)})
        outputs = self.run(x, levels)
        maps = [outputs[level].relu for level in levels]
        return maps if intermediates_only else (outputs[len(self.plans)].relu, maps)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Takes away the cells that the maps at `indices` do not depend on; the last map ends the network.

        Returns the indices, none negative. The head goes, too, unless it is to stay and all cells do.
        """
        taken = self._taken(indices)
        last = self._levels[max(taken)]
        cut = last < len(self.plans)
        live = live_outputs(self.plans[:last], {self._levels[index] for index in taken})
        for index, plan in enumerate(self.plans, start=1):
            if index not in live and plan.name in self.cells:
                del self.cells[plan.name]
        self.plans = self.plans[:last]
        self.taps = {index: name for index, name in self.taps.items() if index in live}
        if cut:
            self.num_features = self.feature_info[max(taken)].channels
        if cut or prune_head:
            self.reset_classifier(0, "")
        return taken

    def _taken(self, indices: int | list[int] | None) -> list[int]:
        count = len(self._levels)
        indices = count if indices is None else indices
        chosen = range(-indices, 0) if isinstance(indices, int) else indices
        if not chosen or not all(-count <= index < count for index in chosen):
            raise ValueError(f"indices = {indices}, but there are {count} maps, see feature_info")
        return [index % count for index in chosen]

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keeps no activations inside the cells for the backward pass, but computes them again in it."""
        self.set_activation_memory("checkpoint" if enable else "keep")

    def group_matcher(self, coarse: bool = False) -> Callable[[str], int]:
        """Place of a parameter by its name, in the order of execution, for rates that depend on depth.

        coarse: by stage instead of by cell.
        """
        places, stage = {"stem": 0}, 1
        for place, plan in enumerate(self.plans, start=1):
            stage += plan.name.startswith("reduction")
            in_stem = plan.name.startswith("stem")
            places[plan.name] = (0 if in_stem else stage) if coarse else place
        last = max(places.values()) + 1
        return lambda name: places.get(name.removeprefix("cells.").split(".")[0], last)


def _create(name: str, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """kwargs: those of timm's models and, further, fields of `NetworkSpec`."""
    fields = {field.name for field in dataclasses.fields(NetworkSpec)} - {"genotype", "in_channels"}
    spec = dataclasses.replace(ZOO[name], **{key: kwargs.pop(key) for key in fields & kwargs.keys()})
    levels = range(5 if spec.stem == "imagenet" else 3)
    features = {"feature_cls": "getter", "out_indices": tuple(levels)}
    return build_model_with_cfg(TimmNASNet, name, pretrained, feature_cfg=features, spec=spec, **kwargs)


def _default_cfg(spec: NetworkSpec) -> dict[str, Any]:
    preprocessing = Preprocessing(spec.image_size)
    pool = -(-spec.stem_side(spec.image_size) // (plan_cells(spec)[-1].stride // spec.stem_stride))
    return {
        "input_size": (spec.in_channels, spec.image_size, spec.image_size),
        "pool_size": (pool, pool),
        "crop_pct": preprocessing.crop,
        "interpolation": preprocessing.interpolation,
        "mean": preprocessing.mean,
        "std": preprocessing.std,
        "num_classes": spec.default_classes,
        "first_conv": "stem.0",
        "classifier": "classifier",
    }


def _register(name: str) -> None:
    """timm takes a network's name from its function and looks for `default_cfgs` in the function's module."""

    def entrypoint(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return _create(name, pretrained, **kwargs)

    entrypoint.__name__ = entrypoint.__qualname__ = name
    globals()[name] = register_model(entrypoint)


__all__ = ["TimmNASNet"]
default_cfgs = generate_default_cfgs({name: _default_cfg(spec) for name, spec in ZOO.items()})
for _name in ZOO:
    _register(_name)
