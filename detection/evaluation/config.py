"""Evaluation of a detector as values."""

from dataclasses import dataclass, field

from detection.data.config import CocoDataConfig
from runtime.config import LoggerConfig, check_device_name
from runtime.ranges import AT, ConfigError, require

EVALUATORS = ("pycocotools", "fast")


@dataclass(kw_only=True)
class EvaluateConfig:
    """What is scored, on which data: a detector, or a predictions file without a model."""

    weights: str | None = None
    """A detector.safetensors."""
    predictions: str | None = None
    """A file in COCO's results format."""
    data: CocoDataConfig
    """Group `data`; its `val` split is scored."""
    evaluator: str = "pycocotools"
    """`pycocotools`, whose numbers are the official ones, or `fast`: faster-coco-eval's, which are equal."""
    device: str = "auto"
    """`auto` (cuda where there is one, else cpu), `cpu`, `cuda` or `cuda:<number>`."""
    threads: int | None = None
    """Threads of PyTorch on CPU; None: PyTorch's choice."""
    output: str | None = None
    """Folder for predictions.json, metrics.json and curves.json; None: the metrics are only printed."""
    logger: LoggerConfig = field(default_factory=lambda: LoggerConfig(name="none"))
    """Where the figures, curves and example images go besides; needs `output`."""

    def __post_init__(self) -> None:
        require(self, "evaluator", among=EVALUATORS)
        require(self, "threads", least=1)
        check_device_name(self.device)
        if (self.weights is None) == (self.predictions is None):
            raise ConfigError(
                f"{AT}weights = {self.weights}, {AT}predictions = {self.predictions}: give one of them, "
                "a detector.safetensors or a file in COCO's results format"
            )
        if self.logger.name != "none" and self.output is None:
            raise ConfigError(
                f"{AT}logger = {self.logger.name}, but there is no output folder; set {AT}output=DIR"
            )
