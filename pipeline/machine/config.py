"""A comparison of detectors on one machine, as values."""

from dataclasses import dataclass, field, fields
from typing import Any

from backbones.config import BackboneConfig
from backbones.ranges import KEY, ConfigError, require, under
from backbones.spec import NetworkSpec
from backbones.words import clipped
from classification.config import ClassificationConfig, ImageDataConfig
from detection.training.config import DetectionConfig
from runtime.config import LoggerConfig
from search.config import SearchConfig
from search.latency.config import LATENCY
from search.studies_config import RerankConfig

OF_TIMM = ("image_size", "batch_norm_momentum")
"""Keys of `classification.backbone` that a network of timm has, too."""


@dataclass(kw_only=True)
class MachineConfig:
    """From own classes and photographs to a table of detectors: accuracy against milliseconds here."""

    run_dir: str
    """Folder of all of it; started again with it, it goes on."""
    seed: int = 0
    """Of every stage."""
    data: ImageDataConfig
    """The classes that search and classifiers learn."""
    search: SearchConfig
    """Finds the cells. Its `latency` counts for all that is timed: the detectors run on that engine."""
    rerank: RerankConfig
    """Chooses among them, by accuracy and milliseconds, and sizes them."""
    classification: ClassificationConfig
    """How the backbone of each detector is trained first."""
    detection: DetectionConfig
    """How each detector is trained."""
    cells: int = 4
    """Most searched networks that become detectors: from the rerank's front, spread over its milliseconds."""
    baselines: list[Any] = field(
        default_factory=lambda: [
            {"name": "nasnet_a_mobile", "cells_per_stage": 1, "filters": 16},
            {"name": "nasnet_a_mobile", "cells_per_stage": 1, "filters": 24},
            {"name": "timm/resnet18"},
            {"name": "timm/mobilenetv3_small_100"},
        ]
    )
    """Networks that are trained and timed alike: keys of `classification.backbone` that differ."""
    logger: LoggerConfig = field(default_factory=LoggerConfig)

    def __post_init__(self) -> None:
        require(self, "cells", least=1, limit=100)
        for number in range(len(self.baselines)):
            self.baseline(number)
        if self.rerank.by != "pareto" or self.rerank.cost != LATENCY:
            raise ConfigError(f"{KEY}rerank.by and {KEY}rerank.cost must be pareto and {LATENCY}")
        stem = self.classification.backbone.stem_filters or NetworkSpec.stem_filters
        if stem != self.search.latency.stem_filters:
            raise ConfigError(
                f"{KEY}search.latency.stem_filters = {self.search.latency.stem_filters}, but "
                f"{KEY}classification.backbone.stem_filters = {stem}; set both, or other networks are timed "
                "than are trained"
            )
        if max(self.classification.trainer.processes, self.detection.trainer.processes) > 1:
            raise ConfigError(f"{KEY}trainer.devices: every network trains on one device")

    def baseline(self, number: int) -> BackboneConfig:
        """Of `baselines`. Raises ConfigError for what is none."""
        given, known = self.baselines[number], [each.name for each in fields(BackboneConfig)]
        where = f"baselines.{number}"
        if not hasattr(given, "keys") or "name" not in given or set(given) - set(known):
            expected = f"expected name and others of {', '.join(known[1:])}"
            raise ConfigError(f"{KEY}{where} = {clipped(given)}, {expected}")
        with under(where):
            return self.backbone(**given)

    def backbone(self, name: str, **changes: Any) -> BackboneConfig:
        """`classification.backbone` with another network; of timm's networks only the size of the images."""
        base = vars(self.classification.backbone)
        if name.startswith("timm/"):
            base = {key: base[key] for key in OF_TIMM}
        return BackboneConfig(**{**base, **changes, "name": name})

    def parts(self) -> list[str]:
        """See `runtime.config.check_extras`."""
        return ["search", "classification", "detection", "logger"]
