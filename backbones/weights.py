"""Weights that describe themselves: safetensors with one metadata key, `celltransfer`, a JSON string."""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor

from backbones.base import Classifier
from backbones.build import build
from backbones.claims import check_size
from backbones.files import convert_json, write_atomically
from backbones.foreign_weights import blank_network, their_names
from backbones.metadata import FORMAT, KEY, read_metadata
from backbones.network import NASNet
from backbones.spec import MOST_CHANNELS, NetworkSpec, Preprocessing
from backbones.timm_spec import TimmSpec
from backbones.words import clipped, counted
from backbones.zoo import FOREIGN_NETWORKS, read_spec

LISTED = 20
"""Tensors of one kind that an error names; a foreign state dict can be wrong in a thousand."""


def write_safetensors(
    path: str | os.PathLike[str], kind: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]
) -> None:
    """Writes tensors with their description, atomically.

    kind: `backbone` or `detector`. metadata: JSON values; `format`, `kind` and `versions` are added.
    """
    header = encoded(kind, metadata, str(path))
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, serialise(plain, metadata={KEY: header}))


def encoded(kind: str, metadata: Mapping[str, Any], where: str) -> str:
    """The description of a weights file as it is stored. Raises ValueError that names a key JSON cannot hold.

    where: the file, for the message. Training calls it before it begins: what it would write must be
    writable."""
    header = {"format": FORMAT, "kind": kind, **metadata, "versions": {"torch": torch.__version__}}
    for key, value in header.items():
        try:
            json.dumps(value, allow_nan=False)
        except (ValueError, TypeError) as error:  # NaN and infinities are not JSON
            raise ValueError(f"{where}: {key} = {clipped(value)} cannot be stored: {error}") from None
    return json.dumps(header)


def read_safetensors(path: str | os.PathLike[str], kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors on the CPU and the metadata of a file that `write_safetensors` wrote.

    Raises FileNotFoundError, or ValueError that names the file, the key and what was expected there.
    """
    metadata = read_metadata(path, kind)
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a {kind} file in safetensors format ({error})") from None


def save(
    net: Classifier,
    path: str | os.PathLike[str],
    *,
    classes: list[str] | None = None,
    metrics: Mapping[str, float] | None = None,
    evaluation: Mapping[str, Any] | None = None,
) -> None:
    """Writes a `backbone.safetensors`. The auxiliary head stays out: it serves training only.

    classes: names in the order of the logits; `net.classes` where None. metrics: as in `metrics.json`.
    evaluation: how they were computed, as far as they depend on it.
    Raises ValueError for a network that `load` could not build again: fused, without its classifier, pruned,
    pooled or changed otherwise since it was built from its spec.
    """
    metadata = {**describe(net, classes, metrics), "evaluation": dict(evaluation or {})}
    write_safetensors(path, "backbone", _storable(net, metadata, str(path)), metadata)


def check_storable(net: Classifier, where: str) -> None:
    """Raises what `save` would raise when its training is over. where: the file, for the message."""
    metadata = describe(net)
    _storable(net, metadata, where)
    encoded("backbone", metadata, where)


def _storable(net: Classifier, metadata: Mapping[str, Any], where: str) -> dict[str, Tensor]:
    """The tensors of a network that can be built again from what `metadata` says. Raises ValueError."""
    if net.unstorable is not None:
        raise ValueError(f"{where}: {net.unstorable}")
    tensors = {name: value for name, value in net.state_dict().items() if not name.startswith("auxiliary.")}
    with torch.device("meta"):
        again = from_description(metadata, where)
    if faults := _differences(again.state_dict(), tensors):
        raise ValueError(f"{where}: the network is no longer the one that its spec describes: {faults}")
    return tensors


def describe(
    net: Classifier, classes: list[str] | None = None, metrics: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """What a weights file says of its network: enough to build it again without any other file."""
    classes = net.classes if classes is None else classes
    if classes is not None and len(classes) != net.num_classes:
        names = counted(len(classes), "class name")
        raise ValueError(f"{names} for a network of {counted(net.num_classes, 'class', 'classes')}")
    return {
        "network": net.spec.to_dict(),
        "num_classes": net.num_classes,
        "classes": classes,
        "preprocessing": dataclasses.asdict(net.preprocessing),
        "metrics": dict(metrics or {}),
    }


@dataclass(frozen=True)
class _Description:
    """What `from_description` reads."""

    network: dict[str, Any]
    num_classes: Annotated[int, msgspec.Meta(ge=1, le=MOST_CHANNELS)]
    preprocessing: Preprocessing
    classes: list[str] | None = None

    def __post_init__(self) -> None:
        if self.classes is not None and len(self.classes) != self.num_classes:
            raise ValueError(
                f"classes = {clipped(self.classes)}, expected {counted(self.num_classes, 'name')}"
            )


def from_description(metadata: Mapping[str, Any], where: str, **training: Any) -> Classifier:
    """The network that `describe` described, with fresh weights. where: the file, for the message.

    training: `drop_path_keep`, `dropout`, `auxiliary` of `NASNet`. Raises ValueError.
    """
    read, spec = _read_description(metadata, where)
    net = build(spec, read.num_classes, **training)
    net.preprocessing, net.classes = read.preprocessing, read.classes
    return net


def _read_description(metadata: Mapping[str, Any], where: str) -> tuple[_Description, NetworkSpec | TimmSpec]:
    given = {key: metadata[key] for key in _Description.__annotations__ if key in metadata}
    read = convert_json(given, _Description, f"{where}: ", defaults=True)
    spec = read_spec(read.network, f"{where}: network")
    if len(read.preprocessing.mean) != spec.in_channels:
        raise ValueError(
            f"{where}: preprocessing.mean = {read.preprocessing.mean}, expected "
            f"{counted(spec.in_channels, 'value')}"
        )
    return read, spec


def load_tensors(module: torch.nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Copies `tensors` into the module, whose own precision remains: float64 and bfloat16 become float32.

    Raises ValueError that lists the missing, extra and misshapen, or names one that holds no numbers."""
    check_tensors(module.state_dict(), tensors, where)
    module.load_state_dict(dict(tensors))
    check_values(module, where)


def check_values(module: torch.nn.Module, where: str) -> None:
    """Raises ValueError for the first weight or statistic that is not finite, or variance below 0.

    where: the file or network, for the message."""
    for name, tensor in module.state_dict().items():
        if not tensor.isfinite().all():
            raise ValueError(f"{where}: {name} holds numbers that are not finite")
        if name.endswith("running_var") and (tensor < 0).any():
            raise ValueError(
                f"{where}: {name} holds a variance of {float(tensor.min()):g}, expected 0 or more"
            )


def check_claims(
    spec: NetworkSpec | TimmSpec,
    build: Callable[[], torch.nn.Module],
    tensors: Mapping[str, Tensor],
    where: str,
) -> None:
    """Raises ValueError unless `build` gives a module of just these tensors. It is built without memory.

    spec: of the module's network. where: the file that claims it, for the message."""
    check_size(spec, tensors, where)
    try:
        with torch.device("meta"):
            expected = build().state_dict()
    except (RuntimeError, OverflowError) as error:  # a size that no number of 64 bits holds
        raise ValueError(f"{where}: describes a network that cannot be built: {error}") from None
    except ValueError as error:
        raise ValueError(f"{where}: {str(error).removeprefix(f'{where}: ')}") from None
    check_tensors(expected, tensors, where)


def check_tensors(expected: Mapping[str, Tensor], given: Mapping[str, Any], where: str) -> None:
    """Raises ValueError that lists the missing, extra and misshapen tensors where there are any."""
    if faults := _differences(expected, given):
        raise ValueError(f"{where}: the weights do not fit the network: {faults}")


def _differences(expected: Mapping[str, Tensor], given: Mapping[str, Any]) -> str:
    shapes = {
        name: tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        for name, value in given.items()
    }
    types = {name: value.dtype for name, value in given.items() if isinstance(value, Tensor)}
    faults = {
        "missing": [name for name in expected if name not in given],
        "unexpected": [str(name) for name in given if name not in expected],
        "of another shape": [
            f"{name} is {shapes[name]}, expected {tuple(tensor.shape)}"
            for name, tensor in expected.items()
            if name in given and shapes[name] != tuple(tensor.shape)
        ],
        "of another type": [
            f"{name} is {types[name]}, expected {tensor.dtype}"
            for name, tensor in expected.items()
            if name in types and types[name].is_floating_point != tensor.dtype.is_floating_point
        ],
    }
    listed = [
        f"{kind} {', '.join(names[:LISTED])}{f' and {len(names) - LISTED} more' * (len(names) > LISTED)}"
        for kind, names in faults.items()
        if names
    ]
    return "; ".join(listed)


def load(path: str | os.PathLike[str], **training: Any) -> Classifier:
    """The network of a `backbone.safetensors` with its weights, in evaluation mode.

    training: `drop_path_keep`, `dropout`, `auxiliary` of `NASNet`; an auxiliary head has fresh weights.
    Raises FileNotFoundError or ValueError that names the file, the key and what was expected.
    """
    tensors, metadata = read_safetensors(path, "backbone")
    spec = _read_description(metadata, str(path))[1]
    check_claims(spec, lambda: from_description(metadata, str(path)), tensors, str(path))
    net = from_description(metadata, str(path), **training)
    fresh = {name: tensor for name, tensor in net.state_dict().items() if name.startswith("auxiliary.")}
    load_tensors(net, {**tensors, **fresh}, str(path))
    return net.eval()


def convert(state_dict: Mapping[str, Tensor], source: str) -> NASNet:
    """The network of another package's state dict, with its weights and preprocessing, in evaluation mode.

    source: `timm` for its `nasnetalarge` (1.0.31), `pretrainedmodels` for its `nasnetamobile` (0.7.4). The
    number of classes, the stem's channels and the filters are read off the tensors; `classes` is None.

    What the packages do differently are fields of the spec, so features and logits are theirs at every size.
    One exception: `pretrainedmodels` pads as TF SAME only where the first stem cell reads an odd map and the
    later ones even maps, that is, where the image's side is a multiple of 32 or one less. At other sizes
    theirs stops, or answers differently; this network goes on padding as TF SAME. Their head pools 7x7
    windows and so takes 224 px only; ours takes the mean of any map.

    Raises ValueError for another source, and one that lists the missing, extra and wrongly shaped tensors by
    their names. Only batch norm's counters of batches may be missing: old files lack them, and nothing that
    keeps a fixed momentum reads them.
    """
    net = blank_network(state_dict, source)
    names = their_names(net)
    expected = {
        names[name]: tensor
        for name, tensor in net.state_dict().items()
        if names[name] in state_dict or not name.endswith("num_batches_tracked")
    }
    check_tensors(expected, state_dict, f"{source}'s {FOREIGN_NETWORKS[source].name}")
    net.to_empty(device="cpu")
    never = torch.zeros((), dtype=torch.int64)
    net.load_state_dict({ours: state_dict.get(theirs, never) for ours, theirs in names.items()})
    check_values(net, source)
    return net.eval()
