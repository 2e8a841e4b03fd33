"""A training run that starts from a trained classifier, of the same classes or others: `init=FILE`."""

import logging
from typing import Any

import torch

from backbones import weights
from backbones.base import Classifier
from backbones.build import build
from backbones.words import counted, printable

log = logging.getLogger(__name__)


def start_from(path: str, classes: list[str], **training: Any) -> Classifier:
    """The network of a `backbone.safetensors` for `classes`, with its weights and preprocessing.

    Rows of the classifier that belong to classes of equal names are kept; other rows, and the auxiliary head,
    are fresh. training: `drop_path_keep`, `dropout`, `auxiliary`, `head_init` of the new network. Raises as
    `weights.load` does."""
    trained = weights.load(path)
    spec: Any = trained.spec
    network = build(spec, len(classes), **training)
    network.preprocessing = trained.preprocessing
    theirs = trained.classes or []
    pairs = [(classes.index(name), theirs.index(name)) for name in classes if name in theirs]
    by_class = _rows_of_classes(spec)
    old = trained.state_dict()
    for name, tensor in network.state_dict().items():
        if name in by_class:
            for ours, other in pairs:
                tensor[ours] = old[name][other]
        elif name in old:
            tensor.copy_(old[name])
    kept = [classes[ours] for ours, _ in pairs]
    fresh = [name for name in classes if name not in kept]
    log.info(
        "starting from %s, which brings the network: the weights of %d of %s are kept%s",
        *(path, len(kept), counted(len(classes), "class", "classes")),
        f", those of {printable(', '.join(fresh))} are fresh" if fresh else "",
    )
    return network


def _rows_of_classes(spec: Any) -> set[str]:
    """Names of the weights that have a row for each class."""
    with torch.device("meta"):
        one, two = (build(spec, number).state_dict() for number in (2, 3))
    return {name for name, tensor in one.items() if tensor.shape != two[name].shape}
