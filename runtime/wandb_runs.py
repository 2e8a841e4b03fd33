"""What a stage's run and its artifacts are called in wandb, and what its folder keeps of that.

An artifact is named for its pipeline and carries its file's digest as an alias, so that the next stage, or a
later upload of a copied folder, names the very file that it began with.
"""

import math
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from backbones.files import decode_json, read_text, real_path, write_json
from runtime.digests import digest
from runtime.folder import input_digests

FILE = "wandb_run.json"
KINDS = ("genotype", "backbone", "detector")
"""Types of artifacts, each the stem of a product's name."""
OTHERS = {".json": "genotype", ".ckpt": "checkpoint"}
"""Kinds of files of other names."""
TAGGED = ("data", "strategy", "backbone", "detector")
"""Sections of a configuration whose names become tags."""


@dataclass(frozen=True)
class Input:
    """A file that a run began with. artifact: its name in wandb, empty where it was never logged."""

    kind: str
    sha256: str
    artifact: str = ""

    @property
    def reference(self) -> str:
        """How `use_artifact` names it."""
        return f"{self.artifact}:{alias(self.sha256)}"


@dataclass(frozen=True)
class WandbRun:
    """pipeline: what the names of its artifacts end with. inputs: by the key that named the file."""

    id: str
    project: str
    name: str
    job_type: str
    pipeline: str
    group: str | None = None
    tags: list[str] = field(default_factory=list)
    inputs: dict[str, Input] = field(default_factory=dict)

    def artifact(self, kind: str) -> str:
        return f"{kind}-{self.pipeline}"

    def save(self, folder: Path) -> None:
        write_json(folder / FILE, asdict(self))

    @classmethod
    def load(cls, folder: Path) -> "WandbRun":
        """Raises FileNotFoundError, or ValueError that names the file and the key."""
        return decode_json(folder / FILE, cls, "run of wandb")


def describe(
    folder: Path, stage: str, values: Mapping[str, Any], project: str, group: str | None
) -> WandbRun:
    """The run of a stage in `folder`. values: its configuration. group: of the pipeline; None: none."""
    title = group or _title(folder, stage)
    return WandbRun(
        id=_id(folder),
        project=project,
        name=f"{title} · {stage}",
        job_type=stage,
        pipeline=re.sub(r"[^\w.-]+", "-", title)[-100:],
        group=group,
        tags=_tags(stage, values, group),
        inputs=_inputs(values),
    )


def alias(sha256: str) -> str:
    """Of the version of an artifact that holds just this file."""
    return f"sha256-{sha256[:12]}"


def artifact_metadata(path: Path, run: WandbRun) -> dict[str, Any]:
    """What an artifact says of its file and of those that it was made from: also where wandb is offline."""
    return {"sha256": digest(path), "run": run.name, "inputs": {k: v.sha256 for k, v in run.inputs.items()}}


def _title(folder: Path, stage: str) -> str:
    """The name of a run's folder; with that of the folder around it where it alone says too little."""
    place = real_path(folder)
    if place.name == stage:
        place = place.parent
    return f"{place.parent.name}/{place.name}" if place.name.isdigit() else place.name


def _tags(stage: str, values: Mapping[str, Any], group: str | None) -> list[str]:
    tags = [stage, "pipeline"] if group else [stage]
    for section in TAGGED:
        part = values.get(section)
        name = part.get("name") if isinstance(part, Mapping) else None
        if isinstance(name, str) and "/" not in name and not name.endswith(".json"):
            tags.append(name)
    return list(dict.fromkeys(tag[:64] for tag in tags))


def _inputs(values: Mapping[str, Any]) -> dict[str, Input]:
    found = {}
    for key, sha256 in input_digests(dict(values)).items():
        path: Any = values
        for part in key.split("."):
            path = path[part]
        path = Path(path)
        kind = path.stem if path.stem in KINDS else OTHERS.get(path.suffix, "backbone")
        try:
            artifact = WandbRun.load(path.parent).artifact(kind)
        except (OSError, ValueError):
            artifact = ""
        found[key] = Input(kind, sha256, artifact)
    return found


def _id(folder: Path) -> str:
    """Drawn once: a continued stage stays one run in wandb. Older runs kept it in a file of its own."""
    try:
        return WandbRun.load(folder).id
    except (OSError, ValueError):
        pass
    old = folder / "wandb_id.txt"
    if os.path.lexists(old) and re.fullmatch("[0-9a-z]{4,64}", found := read_text(old, "wandb id").strip()):
        return found
    return secrets.token_hex(8)


def finite(figures: Mapping[str, Any]) -> dict[str, float]:
    """Numbers that are defined, for a summary."""
    known = {key: value for key, value in figures.items() if isinstance(value, int | float)}
    return {key: value for key, value in known.items() if math.isfinite(value)}


def products(folder: Path) -> Sequence[tuple[str, Path]]:
    """Kinds and files that a run leaves as artifacts."""
    paths = [(kind, path) for kind in KINDS for path in folder.glob(f"{kind}.*")]
    return [(kind, path) for kind, path in paths if path.suffix in (".json", ".safetensors")]
