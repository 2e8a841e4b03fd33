"""The networks that are compared: some of the rerank's front, and the baselines."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backbones.config import BackboneConfig
from backbones.files import read_json
from pipeline.machine.config import MachineConfig
from search.latency.config import LATENCY

Entry = Mapping[str, Any]
"""Of `rerank.json`."""


@dataclass(frozen=True)
class Point:
    """One network. name: for people, told apart from the others. folder: of all that is made of it.

    searched: the rerank's entry; None of a baseline."""

    name: str
    folder: Path
    backbone: BackboneConfig
    searched: Entry | None = None


def points(config: MachineConfig) -> list[Point]:
    """The searched ones first, fastest first. The rerank must have ended."""
    folder, rerank = Path(config.run_dir) / "networks", Path(config.rerank.run_dir)
    ranking = read_json(rerank / "rerank.json", "ranking")
    chosen = read_json(rerank / "cells.json", "chosen cells")
    files = {each["child"]: rerank / "cells" / f"{i:04}.json" for i, each in enumerate(chosen)}
    found = []
    for entry in spread(sorted((each for each in ranking if each["front"]), key=_time), config.cells):
        size = {
            key: entry.get(key, getattr(config.search.latency, key)) for key in ("cells_per_stage", "filters")
        }
        name = f"child {entry['child']} ({_told(size)})"
        backbone = config.backbone(str(files[entry["child"]]), **size)
        found.append(Point(name, folder / _slug(name), backbone, entry))
    for number in range(len(config.baselines)):
        backbone = config.baseline(number)
        size = {key: getattr(backbone, key) for key in ("cells_per_stage", "filters")}
        name = backbone.name if backbone.name.startswith("timm/") else f"{backbone.name} ({_told(size)})"
        found.append(Point(name, folder / _slug(name), backbone))
    return found


def spread(entries: Sequence[Entry], most: int) -> list[Entry]:
    """At most so many of the entries, the first and the last among them, evenly by place."""
    if len(entries) <= most:
        return list(entries)
    if most == 1:
        return [entries[-1]]
    return [entries[round(i * (len(entries) - 1) / (most - 1))] for i in range(most)]


def _time(entry: Entry) -> float:
    return float(entry[LATENCY])


def _told(size: Mapping[str, int | None]) -> str:
    return " x ".join(str(size[key]) for key in ("cells_per_stage", "filters"))


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
