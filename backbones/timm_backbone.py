"""timm's networks as ours: `TimmBackbone` is what `create("timm/resnet18")` gives.

The other way, our networks as timm's, is `timm_models.py`. Letters as in `network.py`.
"""

import copy
import difflib
import functools
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from backbones.base import Classifier, FeatureInfo, Split
from backbones.folding import fold_batch_norms
from backbones.spec import INTERPOLATIONS, Preprocessing
from backbones.timm_spec import TIMM, TimmSpec, without_timm

try:
    import timm
    from timm.data import resolve_model_data_config
    from timm.layers import DropPath
except ImportError as error:
    raise without_timm(error) from None

import backbones.timm_resnet_cifar  # noqa: F401 - registers it

_REFUSALS = (
    *(TypeError, ValueError, AssertionError, LookupError, AttributeError, ArithmeticError),
    *(RuntimeError, NotImplementedError),
)
"""What networks of timm raise for arguments that they do not know or cannot be built with."""

REACHED_SECONDS = 5.0
"""Longest wait for an answer of the host of timm's weights."""

log = logging.getLogger(__name__)


def pretrained_state_dict(name: str, otherwise: str) -> dict[str, Tensor]:
    """The released weights of a network of timm, from timm's cache or over the network.

    Raises OSError that says that there is no copy to be had, and what to do `otherwise`.
    """
    try:
        with _without_retries() as reachable:
            return timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:  # each of timm's ways to a file has errors of its own
        reason = (str(error).splitlines() or [type(error).__name__])[0].split(". ")[0].rstrip(".")
        if not reachable:
            reason = "they are not in its cache, and its host cannot be reached"
        raise OSError(f"the weights of timm's {name} cannot be had ({reason}): {otherwise}") from error


def pretrained(name: str, otherwise: str) -> "TimmBackbone":
    """`timm/` and a network of timm, with its released weights. Raises as `pretrained_state_dict` does, and
    ValueError for a name that timm does not know."""
    net = TimmBackbone(TimmSpec.from_name(name))
    net.body.load_state_dict(pretrained_state_dict(net.spec.timm, otherwise))
    return net.eval()


@contextmanager
def _without_retries() -> Iterator[bool]:
    """Gives whether the host of timm's weights answers. Where it does not, only the cache is looked at:
    its client would try each file six times, which takes minutes."""
    from huggingface_hub import constants, get_session

    before = constants.HF_HUB_OFFLINE
    try:
        reachable = not before
        if reachable:
            get_session().head(constants.ENDPOINT, timeout=REACHED_SECONDS)
    except Exception:  # of whatever client the package uses
        reachable = False
    try:
        constants.HF_HUB_OFFLINE = not reachable
        yield reachable
    finally:
        constants.HF_HUB_OFFLINE = before


class TimmBackbone(Classifier):
    """A network of timm. Its maps are those of its own `feature_info`, the last of each stride from 4 to 32.

    body: the network itself. There is no auxiliary head; what timm calls drop path follows `set_progress`.
    """

    spec: TimmSpec
    body: Any

    def __init__(
        self,
        spec: TimmSpec,
        num_classes: int | None = None,
        *,
        drop_path_keep: float = 1.0,
        dropout: float = 0.0,
        auxiliary: bool = False,
    ) -> None:
        super().__init__(spec, spec.default_classes if num_classes is None else num_classes, drop_path_keep)
        training = {"drop_path_rate": 1 - drop_path_keep, "drop_rate": dropout}
        self.body = _body(spec, self.num_classes, {key: rate for key, rate in training.items() if rate})
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
        self._tails: dict[int, tuple[str, ...]] = {}
        self._drop_rates = {
            name: module.drop_prob
            for name, module in self.body.named_modules()
            if isinstance(module, DropPath)
        }

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)

    def features(self, x: Tensor) -> dict[str, Tensor]:
        maps = self._maps(self._levels, x)
        return {info.name: x for info, x in zip(self.feature_info, maps, strict=True)}

    def _maps(self, levels: list[int], x: Tensor) -> list[Tensor]:
        return self.body.forward_intermediates(x, indices=levels, stop_early=True, intermediates_only=True)

    def split(self, stride: int = 16) -> Split:
        if stride not in self._tails:
            self._tails[stride] = self._stages_after(stride)
        stages = {name: self.get_submodule(name) for name in self._tails[stride]}
        at = next(index for index, info in enumerate(self.feature_info) if info.stride == stride)
        trunk = functools.partial(self._maps, [self._levels[at]])
        return StageSplit(trunk, stages, *self.feature_info[at:])

    def _stages_after(self, stride: int) -> tuple[str, ...]:
        """Names of the modules between the last map of that stride and the last map of all.

        Raises ValueError unless they give that map on their own, which is tried.
        """
        fault = f"{TIMM}{self.spec.timm} cannot be split at stride {stride}: "
        infos = {info["reduction"]: info for info in self.body.feature_info} if self.feature_info else {}
        if [info.stride for info in self.feature_info[-2:]] != [stride, 2 * stride]:
            strides = ", ".join(str(info.stride) for info in self.feature_info) or "none"
            raise ValueError(
                f"{fault}its last two maps must have strides {stride} and {2 * stride}, not {strides}"
            )
        parent, _, first = infos[stride]["module"].rpartition(".")
        last_parent, _, last = infos[2 * stride]["module"].rpartition(".")
        names = [name for name, _ in self.body.get_submodule(parent).named_children()]
        if parent != last_parent or first not in names or last not in names:
            raise ValueError(f"{fault}timm does not name the stages of its last two maps")
        between = names[names.index(first) + 1 : names.index(last) + 1]
        stages = tuple(".".join(filter(None, ("body", parent, name))) for name in between)
        if not self._gives_last_map(stages):
            raise ValueError(f"{fault}more than {', '.join(stages)} lies between its last two maps")
        return stages

    @torch.no_grad()
    def _gives_last_map(self, stages: tuple[str, ...]) -> bool:
        net = copy.deepcopy(self).eval()
        side, like = 64, next(net.parameters())
        channels = self.spec.in_channels
        image = torch.linspace(-1, 1, channels * side**2, device=like.device, dtype=like.dtype)
        try:
            *_, x, last = net.features(image.view(1, channels, side, side)).values()
            for name in stages:
                x = net.get_submodule(name)(x)
        except Exception:  # each network has its own way to say that it was called wrongly
            return False
        return x.shape == last.shape and (x.is_meta or torch.allclose(x, last, rtol=1e-4, atol=1e-4))

    def fuse(self) -> "TimmBackbone":
        """As ours; where torch.fx cannot follow the network, its batch norm stays, and the log says so."""
        net = copy.deepcopy(self).eval()
        fold_batch_norms(net.body)
        net.fused = True
        return net.to(memory_format=torch.channels_last).requires_grad_(False)

    def set_progress(self, progress: float) -> None:
        for name, module in self.body.named_modules():
            if name in self._drop_rates:
                module.drop_prob = self._drop_rates[name] * min(1.0, max(0.0, progress))

    def remove_classifier(self) -> None:
        if hasattr(self.body, "prune_intermediate_layers"):
            self.body.prune_intermediate_layers(self._levels, prune_norm=True, prune_head=True)
        else:
            self.body.reset_classifier(0)


class StageSplit(Split):
    """Before the last stage of a network of timm: the map is that of the stage before.

    trunk: images to the one map. stages: what follows, in order, by the names that they have in the network.
    """

    def __init__(
        self,
        trunk: Callable[[Tensor], list[Tensor]],
        stages: Mapping[str, nn.Module],
        info: FeatureInfo,
        last: FeatureInfo,
    ) -> None:
        self._trunk, self._stages = trunk, list(stages.values())
        self.stride, self.channels, self.tail_channels = info.stride, info.channels, last.channels
        self.tail_modules = tuple(stages)

    def trunk(self, images: Tensor) -> Tensor:
        (last,) = self._trunk(images)
        return last

    def tail(self, crops: Tensor) -> Tensor:
        for stage in self._stages:
            crops = stage(crops)
        return crops


def _body(spec: TimmSpec, num_classes: int, training: dict[str, float]) -> nn.Module:
    if not timm.is_model(spec.timm):
        near = difflib.get_close_matches(spec.timm, timm.list_models(), n=3, cutoff=0.3)
        raise ValueError(f"timm knows no network {spec.timm!r}: did you mean {', '.join(near) or 'another'}?")
    arguments = {**spec.arguments, **training, "in_chans": spec.in_channels}
    if spec.image_size is not None and timm.get_pretrained_cfg_value(spec.timm, "fixed_input_size"):
        arguments["img_size"] = spec.image_size
    try:
        body = timm.create_model(spec.timm, num_classes=num_classes, **arguments)
    except _REFUSALS as error:
        raise ValueError(f"{TIMM}{spec.timm}: {error or type(error).__name__}") from error
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
    interpolation = data["interpolation"]
    if interpolation not in INTERPOLATIONS:
        warn_once(
            f"{TIMM}{spec.timm}: timm resizes by {interpolation!r}, which is not known here; bilinear is used"
        )
        interpolation = "bilinear"
    if data["crop_mode"] != "center":
        warn_once(
            f"{TIMM}{spec.timm}: timm evaluates it by crop_mode = {data['crop_mode']!r}, which is not known "
            "here; the central square is used"
        )
    return Preprocessing(
        spec.image_size or data["input_size"][-1],
        mean=mean,
        std=std,
        crop=min(1.0, data["crop_pct"]),
        interpolation=interpolation,
    )


@functools.cache
def warn_once(message: str) -> None:
    """Once, however often the network is built: a weights file is checked by building its network."""
    log.warning(message)
