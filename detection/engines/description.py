"""What a `detector.safetensors` says of its tensors, and the engine that they belong to."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from backbones.build import build
from backbones.files import convert_json
from backbones.spec import NetworkSpec, Preprocessing
from backbones.timm_spec import TimmSpec
from backbones.words import clipped
from backbones.zoo import read_spec
from detection.data.coco_file import CategoryEntry
from detection.data.sizing import EvaluationSize, SizeRecord
from detection.engines.base import Engine
from detection.engines.config import ENGINES, EngineConfig
from detection.model.norms import use_group_norm

T = TypeVar("T")


@dataclass(frozen=True)
class Description:
    """What a `detector.safetensors` says of its tensors."""

    config: EngineConfig
    spec: NetworkSpec | TimmSpec
    preprocessing: Preprocessing
    categories: list[CategoryEntry]
    input_size: EvaluationSize
    group_norm: bool = False
    """The backbone's batch norm was replaced before training: `detection.model.norms.use_group_norm`."""

    @classmethod
    def read(cls, metadata: Mapping[str, Any], path: str | os.PathLike[str]) -> "Description":
        """From the metadata of `path`. Raises ValueError that names the file, the key and the rule."""
        name = str(metadata.get("engine"))
        if name not in ENGINES:
            raise ValueError(f"{path}: engine = {clipped(name)}, expected one of {', '.join(ENGINES)}")
        return cls(
            spec=read_spec(metadata.get("network"), f"{path}: network"),
            config=_read(metadata, "detector", ENGINES[name], path),
            preprocessing=_read(metadata, "preprocessing", Preprocessing, path),
            categories=_read(metadata, "categories", list[CategoryEntry], path),
            input_size=_read(metadata, "input", SizeRecord, path).size,
            group_norm=bool(metadata.get("group_norm", False)),
        )

    def build(self, path: str | os.PathLike[str]) -> Engine:
        """The engine with fresh weights. path: the file, for the message. Raises ValueError, and ImportError
        where the engine's package is not installed."""
        try:
            backbone = build(self.spec, num_classes=1)
            backbone.remove_classifier()
            if self.group_norm:
                use_group_norm(backbone)
            backbone.preprocessing = self.preprocessing
            return self.config.build(backbone, len(self.categories))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


def _read(metadata: Mapping[str, Any], key: str, form: type[T], path: str | os.PathLike[str]) -> T:
    """A key of the metadata. Raises ValueError that names file and key."""
    if key not in metadata:
        raise ValueError(f"{path}: {key} is missing")
    return convert_json(metadata[key], form, f"{path}: {key}.", defaults=True)
