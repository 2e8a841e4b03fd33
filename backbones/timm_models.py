"""Both ways between timm and this package; the only module that imports timm.

Importing it registers every network of the zoo with timm: `timm.create_model("nasnet_a_mobile", …)`.
`TimmBackbone` is what `create("timm/resnet18")` gives. Letters as in `network.py`.
"""

import contextlib
import dataclasses
import difflib
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from backbones.base import Backbone, FeatureInfo
from backbones.build import TIMM, TimmSpec
from backbones.network import NASNet
from backbones.spec import INTERPOLATIONS, NetworkSpec, Preprocessing
from backbones.zoo import ZOO

try:
    import timm
    from timm.data import resolve_model_data_config
    from timm.layers import DropPath, create_classifier
    from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
except ImportError as error:
    raise ModuleNotFoundError(
        f'timm\'s networks need timm, which is not installed ({error}): pip install -e ".[timm]"'
    ) from None

log = logging.getLogger(__name__)


class TimmNASNet(NASNet):
    """A NASNet with the methods and attributes that timm's users expect; its weights are `NASNet`'s, by name.

    feature_info: timm's, the stem before the cells where it has a stride of its own; all maps are taken after
    their ReLU. global_pool: as in timm, `""` for none. num_classes: 0 for none. drop_path_rate: at the last
    cell; it falls linearly towards the image.
    """

    global_pool: Any

    def __init__(
        self,
        spec: NetworkSpec,
        num_classes: int = 1000,
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
                max(num_classes, 1),
                drop_path_keep=1 - drop_path_rate,
                dropout=drop_rate,
            )
        self.in_chans, self.drop_rate = in_chans, drop_rate
        maps = [(info.channels, info.stride) for info in self.feature_info]
        self._levels = list(self._taps)
        if spec.stem == "imagenet":
            maps, self._levels = [(spec.stem_filters, 2), *maps], [0, *self._levels]
        modules = ["stem", *(f"cells.{plan.name}" for plan in self.plans)]
        infos: Any = [
            {"num_chs": channels, "reduction": stride, "module": modules[index]}
            for (channels, stride), index in zip(maps, self._levels, strict=True)
        ]
        self.feature_info = infos  # timm's form of the same
        self.num_features = self.classifier.in_features
        self.to(dtype=dtype)
        self.reset_classifier(num_classes, global_pool)

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
        return self._run(x)[len(self.plans)].relu

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
        outputs = self._run(x, levels)
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
        live = {self._levels[index] for index in taken}
        for index in range(last, 0, -1):
            live |= self.plans[index - 1].read if index in live else set()
        for index, plan in enumerate(self.plans, start=1):
            if index not in live and plan.name in self.cells:
                del self.cells[plan.name]
        self.plans = self.plans[:last]
        self._taps = {index: name for index, name in self._taps.items() if index in live}
        if cut:
            self.num_features = self.feature_info[max(taken)]["num_chs"]  # type: ignore[index]
        if cut or prune_head:
            self.reset_classifier(0, "")
        return taken

    def _taken(self, indices: int | list[int] | None) -> list[int]:
        count = len(self._levels)
        chosen = range(-(indices or count), 0) if isinstance(indices, int | None) else indices
        if not all(-count <= index < count for index in chosen):
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
    preprocessing, imagenet = Preprocessing(spec.image_size), spec.stem == "imagenet"
    side = (spec.image_size - 1) // 2 if imagenet else spec.image_size
    pool = -(-side // (16 if imagenet else 4))
    return {
        "input_size": (spec.in_channels, spec.image_size, spec.image_size),
        "pool_size": (pool, pool),
        "crop_pct": preprocessing.crop,
        "interpolation": preprocessing.interpolation,
        "mean": preprocessing.mean,
        "std": preprocessing.std,
        "num_classes": 1000 if imagenet else 10,
        "first_conv": "stem.0",
        "classifier": "classifier",
    }


def _register(name: str) -> None:
    """timm takes a network's name from its function and looks for `default_cfgs` in the function's module."""

    def entrypoint(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return _create(name, pretrained, **kwargs)

    entrypoint.__name__ = entrypoint.__qualname__ = name
    globals()[name] = register_model(entrypoint)


__all__ = ["TimmBackbone", "TimmNASNet"]
default_cfgs = generate_default_cfgs({name: _default_cfg(spec) for name, spec in ZOO.items()})
for _name in ZOO:
    _register(_name)


def pretrained_state_dict(name: str) -> dict[str, Tensor]:
    """The released weights of a network of timm, from timm's cache or over the network.

    Raises OSError that says that there is no copy to be had.
    """
    try:
        return timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:  # each of timm's ways to a file has errors of its own
        reason = (str(error).splitlines() or [type(error).__name__])[0].split(". ")[0].rstrip(".")
        raise OSError(
            f"the weights of timm's {name} could not be downloaded ({reason}): give them by --checkpoint FILE"
        ) from error


class TimmBackbone(Backbone):
    """A network of timm. Its maps are those of its own `feature_info`, the last of each stride from 4 to 32.

    body: the network itself. There is no auxiliary head; what timm calls drop path follows `set_progress`.
    """

    spec: TimmSpec
    body: Any

    def __init__(
        self,
        spec: TimmSpec,
        num_classes: int = 1000,
        *,
        drop_path_keep: float = 1.0,
        dropout: float = 0.0,
        auxiliary: bool = False,
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes = {num_classes}, must be at least 1")
        if not 0.0 < drop_path_keep <= 1.0:
            raise ValueError(f"drop_path_keep = {drop_path_keep}, must be in (0, 1]")
        self.spec, self.num_classes, self.drop_path_keep = spec, num_classes, drop_path_keep
        self.classes, self.auxiliary = None, None
        training = {"drop_path_rate": 1 - drop_path_keep, "drop_rate": dropout}
        self.body = _body(spec, num_classes, {key: rate for key, rate in training.items() if rate})
        self.preprocessing = _preprocessing(self.body, spec)
        if auxiliary:
            log.info("No auxiliary head: networks of timm have none")
        infos = self.body.feature_info if hasattr(self.body, "forward_intermediates") else []
        last = {info["reduction"]: index for index, info in enumerate(infos)}
        strides = {f"c{log2}": 2**log2 for log2 in range(2, 6) if 2**log2 in last}
        self._levels = [last[stride] for stride in strides.values()]
        self.feature_info = [
            FeatureInfo(name, infos[last[stride]]["num_chs"], stride) for name, stride in strides.items()
        ]
        self._drop_rates = {
            name: module.drop_prob
            for name, module in self.body.named_modules()
            if isinstance(module, DropPath)
        }

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)

    def forward_with_aux(self, x: Tensor) -> tuple[Tensor, None]:
        return self(x), None

    def features(self, x: Tensor) -> dict[str, Tensor]:
        maps = self.body.forward_intermediates(
            x, indices=self._levels, stop_early=True, intermediates_only=True
        )
        return {info.name: x for info, x in zip(self.feature_info, maps, strict=True)}

    def set_progress(self, progress: float) -> None:
        for name, module in self.body.named_modules():
            if name in self._drop_rates:
                module.drop_prob = self._drop_rates[name] * min(1.0, max(0.0, progress))

    def remove_classifier(self) -> None:
        if hasattr(self.body, "prune_intermediate_layers"):
            self.body.prune_intermediate_layers(self._levels, prune_norm=True, prune_head=True)
        else:
            self.body.reset_classifier(0)


def _body(spec: TimmSpec, num_classes: int, training: dict[str, float]) -> nn.Module:
    if not timm.is_model(spec.timm):
        near = difflib.get_close_matches(spec.timm, timm.list_models(), n=3, cutoff=0.3)
        raise ValueError(f"timm knows no network {spec.timm!r}: did you mean {', '.join(near) or 'another'}?")
    arguments = {**spec.arguments, **training, "in_chans": spec.in_channels}
    if spec.image_size is not None and timm.get_pretrained_cfg_value(spec.timm, "fixed_input_size"):
        arguments.setdefault("img_size", spec.image_size)
    try:
        body = timm.create_model(spec.timm, num_classes=num_classes, **arguments)
    except TypeError as error:  # an argument that this network does not know
        raise ValueError(f"{TIMM}{spec.timm}: {error}") from error
    if spec.batch_norm_momentum is not None:
        for module in body.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = spec.batch_norm_momentum
    return body


def _preprocessing(body: nn.Module, spec: TimmSpec) -> Preprocessing:
    data = resolve_model_data_config(body)
    mean, std = (
        tuple(data[key])
        if len(data[key]) == spec.in_channels
        else (sum(data[key]) / len(data[key]),) * spec.in_channels
        for key in ("mean", "std")
    )
    return Preprocessing(
        spec.image_size or data["input_size"][-1],
        mean=mean,
        std=std,
        crop=min(1.0, data["crop_pct"]),
        interpolation=data["interpolation"] if data["interpolation"] in INTERPOLATIONS else "bilinear",
    )
