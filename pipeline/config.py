"""A whole chain as values."""

from dataclasses import dataclass

from classification.config import ClassificationConfig, ImageDataConfig
from detection.training.config import DetectionConfig
from runtime.config import LoggerConfig
from search.config import SearchConfig


@dataclass(kw_only=True)
class PipelineConfig:
    """A whole chain. `data` serves search and classification, which refer to it."""

    run_dir: str
    """Folder of the chain; each stage has its own inside. Started again with it, the chain continues."""
    search: SearchConfig
    classification: ClassificationConfig
    detection: DetectionConfig
    data: ImageDataConfig
    logger: LoggerConfig
    seed: int = 0
    """Of every stage."""

    def __post_init__(self) -> None:
        if max(self.classification.trainer.processes, self.detection.trainer.processes) > 1:
            raise ValueError(
                "a chain trains on one device; for more train each stage alone (docs/distributed.md)"
            )

    def parts(self) -> list[str]:
        """See `runtime.config.check_extras`: the stages refer to `data`."""
        return ["search", "classification", "detection", "logger"]
