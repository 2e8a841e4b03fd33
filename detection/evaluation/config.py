"""Evaluation of a detector as values."""

from dataclasses import dataclass

from backbones.ranges import KEY, ConfigError, require
from detection.data.config import CocoDataConfig
from runtime.config import EvaluationConfig

EVALUATORS = ("pycocotools", "fast")


@dataclass(kw_only=True)
class EvaluateConfig(EvaluationConfig):
    """What is scored, on which data: a detector, or a predictions file without a model."""

    weights: str | None = None
    """A detector.safetensors."""
    predictions: str | None = None
    """A file in COCO's results format."""
    data: CocoDataConfig
    """Group `data`; its `val` split is scored."""
    evaluator: str = "pycocotools"
    """`pycocotools`, whose numbers are the official ones, or `fast`: hotcoco's, which are equal."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "evaluator", among=EVALUATORS)
        if (self.weights is None) == (self.predictions is None):
            raise ConfigError(
                f"{KEY}weights = {self.weights}, {KEY}predictions = {self.predictions}: give one of them, "
                "a detector.safetensors or a file in COCO's results format"
            )
