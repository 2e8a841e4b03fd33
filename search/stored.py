"""A search that was run before, read from its folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from classification.config import ImageDataConfig
from runtime.yaml_files import read_mapping
from search.children.config import ChildConfig
from search.config import ObjectiveConfig, SearchConfig, SpaceConfig
from search.latency.config import LatencyConfig

PARTS: dict[str, type] = {
    "data": ImageDataConfig,
    "space": SpaceConfig,
    "child": ChildConfig,
    "objective": ObjectiveConfig,
    "latency": LatencyConfig,
}
"""Of a search's configuration what decides how a child is trained, scored and timed."""


def stored_search(folder: str | Path, **changes: Any) -> SearchConfig:
    """The configuration of the search in a folder; changes: keys with another value.

    Raises FileNotFoundError where there is none, and ValueError that names the file and key for what is no
    configuration of a search."""
    path = Path(folder) / "config.yaml"
    stored = read_mapping(path, "configuration of a search")
    if not {"strategy", "child", "budget"} <= stored.keys():
        raise ValueError(f"{path}: not the configuration of a search")
    values: dict[str, Any] = {"seed": stored.get("seed", 0), "metric": stored.get("metric")}
    values["evaluator"] = with_references(stored.get("evaluator"), stored)
    for name, kind in PARTS.items():
        if name not in stored:
            continue
        try:
            values[name] = None if stored[name] is None else msgspec.convert(stored[name], kind)
        except (msgspec.ValidationError, ValueError) as error:
            raise ValueError(f"{path}: {name}: {error}") from None
    return SearchConfig(**{**values, **changes})


def with_references(value: Any, stored: Mapping[str, Any]) -> Any:
    """The evaluator of a search that stored the copies which `${child}` and `${data}` gave it."""
    for name in ("child", "data"):
        if isinstance(value, Mapping) and value == stored.get(name):
            return f"${{{name}}}"
    if isinstance(value, Mapping):
        return {key: with_references(each, stored) for key, each in value.items()}
    return value
