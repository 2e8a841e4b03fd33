"""A search that was run before, read from its folder."""

from pathlib import Path
from typing import Any

import msgspec

from classification.config import ImageDataConfig
from runtime.yaml_files import read_mapping
from search.children.config import ChildConfig
from search.config import SearchConfig, SpaceConfig

PARTS: dict[str, type] = {"data": ImageDataConfig, "space": SpaceConfig, "child": ChildConfig}
"""Of a search's configuration what decides how a child is trained and scored."""


def stored_search(folder: str | Path, **changes: Any) -> SearchConfig:
    """The configuration of the search in a folder; changes: keys with another value.

    Raises FileNotFoundError where there is none, and ValueError that names the file and key for what is no
    configuration of a search."""
    path = Path(folder) / "config.yaml"
    stored = read_mapping(path, "configuration of a search")
    if not {"strategy", "child", "budget"} <= stored.keys():
        raise ValueError(f"{path}: not the configuration of a search")
    values: dict[str, Any] = {"evaluator": stored.get("evaluator"), "seed": stored.get("seed", 0)}
    for name, kind in PARTS.items():
        try:
            values[name] = None if stored.get(name) is None else msgspec.convert(stored[name], kind)
        except (msgspec.ValidationError, ValueError) as error:
            raise ValueError(f"{path}: {name}: {error}") from None
    return SearchConfig(**{**values, **changes})
