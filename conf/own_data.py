"""Values that an experiment takes from the user's data and device, as `${own_photos:steps}` does.

They are numbers like any others once the configuration is composed: recorded, compared on a resume, and
replaced by what the user types. Where the data cannot be opened, the training tells why.
"""

import functools
from collections.abc import Callable
from typing import Any

from omegaconf import DictConfig, OmegaConf

FALLBACK = "nasnet_a_mobile"
"""The network with fresh weights where the user gives none."""
DETECTION_KEYS = (
    *("root", "layout", "val_fraction", "split_seed"),
    *("train_images", "train_annotations", "val_images", "val_annotations", "train_limit"),
)
CLASSIFICATION_KEYS = (
    *("name", "root", "train_folder", "test_folder", "val_fraction", "split_seed", "train_limit"),
)


def register_resolvers() -> None:
    """Makes both known to OmegaConf; before each composition, since the data may have changed."""
    _opened.cache_clear()
    for name, resolver in (("own_photos", _own_photos), ("own_classes", _own_classes)):
        OmegaConf.register_new_resolver(name, resolver, replace=True)


def _own_photos(key: str, *, _root_: DictConfig) -> Any:
    from detection.training import sizes

    fresh = _root_.backbone.get("weights") is None and _root_.get("init") is None
    if key == "name":
        return FALLBACK if fresh else None
    if key in ("cells_per_stage", "filters", "batch_norm_momentum") and not fresh:
        return None
    if key == "batch_norm_momentum":
        return 0.1
    if key == "steps" and _root_.recipe.epochs is not None:
        return None
    images = _count(_detection_images, _root_, DETECTION_KEYS) or sizes.WITHOUT_DATA
    given = {} if key == "batch_size" else _given(_root_.recipe, "batch_size", "steps", "epochs")
    return getattr(sizes.own_photos(images, cuda=_cuda(_root_), **given), key)


def _own_classes(key: str, *, _root_: DictConfig) -> Any:
    from classification import sizes

    images = _count(_classification_images, _root_, CLASSIFICATION_KEYS) or sizes.WITHOUT_DATA
    given = {} if key == "batch_size" else _given(_root_.recipe, "batch_size", "epochs")
    return getattr(sizes.own_classes(images, cuda=_cuda(_root_), **given), key)


def _given(recipe: DictConfig, *keys: str) -> dict[str, int]:
    """What the user typed; not what is to be found here, nor on the device."""
    nodes: dict[str, Any] = {key: recipe._get_node(key) for key in keys}
    values = {key: recipe[key] for key, node in nodes.items() if not node._is_interpolation()}
    return {key: value for key, value in values.items() if isinstance(value, int)}


def _cuda(root: DictConfig) -> bool:
    name = str(root.trainer.device)
    if name != "auto":
        return name.startswith("cuda")
    import torch

    return torch.cuda.is_available()


def _count(count: Callable[[Any], int], root: DictConfig, keys: tuple[str, ...]) -> int | None:
    """Training images; None where they cannot be opened."""
    data = root.data
    if OmegaConf.is_missing(root, "data"):
        return None
    given = tuple((key, data[key]) for key in keys if key in data)
    kind: Any = OmegaConf.get_type(data)
    return _opened(count, kind, given)


@functools.lru_cache(maxsize=8)
def _opened(count: Callable[[Any], int], kind: type, values: tuple[tuple[str, Any], ...]) -> int | None:
    """Kept, failures too: a configuration asks for one value after the other, dozens of times."""
    try:
        return count(kind(**dict(values)))
    except (ValueError, OSError, ImportError):  # which the training tells
        return None


def _detection_images(config: Any) -> int:
    from detection.data.coco_text import split_file

    images = len(split_file(config.places("train")[0]).images or [])
    return min(images, config.train_limit or images)


def _classification_images(config: Any) -> int:
    from classification import data

    data.log.disabled = True  # the training tells what it leaves out
    try:
        return len(data.open_images(config, "train"))
    finally:
        data.log.disabled = False
