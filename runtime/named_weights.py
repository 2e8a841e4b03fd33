"""Trained weights by name: `timm/resnet50` is that network of timm with its released weights."""

import logging
import os
from pathlib import Path

from backbones.ranges import KEY, NoSuchPathError
from backbones.timm_spec import TIMM
from backbones.weights import save
from runtime.cache import cache_folder

log = logging.getLogger(__name__)


def weights_file(value: str, key: str) -> str:
    """The file that the value of `key` means: itself, or one in the user's cache that is fetched once.

    Raises ConfigError for what is neither a file nor such a name, ModuleNotFoundError without timm,
    ValueError for a name that timm does not know, OSError where its weights cannot be had."""
    if not value.startswith(TIMM):
        if not os.path.lexists(value) and not Path(value).suffix:
            raise NoSuchPathError(
                f"{KEY}{key} = {value}: no such file; names of weights are {TIMM}NAME, such as {TIMM}resnet50"
            )
        return value
    path = cache_folder() / "weights" / f"{value.replace('/', '-')}.safetensors"
    if not path.is_file():
        from backbones.timm_backbone import pretrained  # an extra

        log.info("%s: fetching its weights into %s", value, path)
        network = pretrained(value, f"fetch them where there is a network, and copy {path} here")
        path.parent.mkdir(parents=True, exist_ok=True)
        save(network, path)
    return str(path)
