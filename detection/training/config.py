"""Training of a detector as values."""

from dataclasses import dataclass, field, replace

from backbones.ranges import KEY, ConfigError, require
from backbones.spec import check_sizes
from backbones.timm_spec import timm_extras
from detection.data.config import SPLITS, CocoDataConfig
from detection.engines.config import EngineConfig
from detection.evaluation.config import EVALUATORS
from detection.training.recipe import AUTO, DetectionRecipe
from runtime.config import LoggerConfig, TrainerConfig
from runtime.steps import StepPlan


@dataclass(kw_only=True)
class BackboneSource:
    """Either `weights` or `name`; neither where `init` brings the network. The other keys belong to `name`.
    None: what the name says."""

    weights: str | None = None
    """A backbone.safetensors, which brings its architecture and its preprocessing; a detector.safetensors,
    whose backbone is taken; or timm/NAME, a network of timm with its released weights."""
    from_scratch: bool = False
    """Take the architecture of `weights` and leave its weights: the control of a transfer experiment."""
    name: str | None = None
    """A zoo name or a genotype.json, with fresh weights."""
    cells_per_stage: int | None = None
    """Normal cells in each of the three stages."""
    filters: int | None = None
    """Channels of one hidden state in the first stage."""
    stem_filters: int | None = None
    """Channels of the stem's convolution."""
    batch_norm_momentum: float | None = None
    """Weight of the newest batch in the running statistics; goes with `from_scratch`, too, where the momentum
    of a long training on ImageNet would leave the statistics almost at their start."""
    freeze_at: int = 0
    """Loaded weights that are not trained: all that the maps up to this one are computed from, with their
    statistics; 2 is c2, stride 4, Detectron2's FREEZE_AT = 2 of a ResNet, 5 the whole network. 0: none."""

    def __post_init__(self) -> None:
        if self.weights is not None and self.name is not None:
            raise ConfigError(
                f"{KEY}weights = {self.weights} and {KEY}name = {self.name}: give one, "
                "a backbone.safetensors or a network's name"
            )
        given = [key for key, value in self.size().items() if value is not None]
        if self.weights is None and self.name is None and given:
            raise ConfigError(f"{KEY}{given[0]} belongs to {KEY}name, which is not set")
        if self.from_scratch:
            given = [key for key in given if key != "batch_norm_momentum"]
        if self.weights is not None and given:
            raise ConfigError(f"{KEY}{given[0]} belongs to {KEY}name; {self.weights} has its own")
        if self.name is not None and self.from_scratch:
            raise ConfigError(f"{KEY}from_scratch needs {KEY}weights; a name is always from scratch")
        check_sizes(self)
        require(self, "batch_norm_momentum", above=0, most=1)
        require(self, "freeze_at", least=0, most=5)
        if self.freeze_at and (self.name is not None or self.from_scratch):
            raise ConfigError(
                f"{KEY}freeze_at = {self.freeze_at} needs loaded weights; fresh ones would stay as drawn"
            )

    @property
    def label(self) -> str:
        """What a message calls the network."""
        return str(self.weights or self.name)

    @property
    def pretrained(self) -> bool:
        """Whether `detection.training.build.build_backbone` gives trained weights."""
        return self.weights is not None and not self.from_scratch

    def size(self) -> dict[str, int | float | None]:
        """The keys that belong to `name`."""
        keys = ("cells_per_stage", "filters", "stem_filters", "batch_norm_momentum")
        return {key: getattr(self, key) for key in keys}

    def extras(self) -> dict[str, str]:
        """See `runtime.config.check_extras`."""
        return timm_extras(self.name)


@dataclass(kw_only=True)
class TrainingConfig:
    """What a detector is trained on, and how."""

    backbone: BackboneSource
    """What the detector is built on."""
    data: CocoDataConfig
    """Group `data`: `coco` or `scenes`."""
    detector: EngineConfig
    """Group `detector`."""
    recipe: DetectionRecipe = field(default_factory=DetectionRecipe)
    """Group `recipe`."""
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    """Device, precision, checkpoints."""
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    """Where the figures go."""
    validate_every_epochs: int | None = None
    """Epochs between two evaluations during training, whose best weights are kept; None: only at the end."""
    validate_every_steps: int | None = None
    """The same in optimiser steps; give at most one of the two."""
    init: str | None = None
    """A detector.safetensors to start from. It brings the network, so `backbone` has no weights and no name.
    Rows of classes of equal names are kept, those of others start fresh."""
    continues: str | None = None
    """Folder of a finished run whose last state this run begins with; it has the same configuration, but for
    its length. None: what the run in `run_dir` says."""
    evaluator: str = "pycocotools"
    """Of the last evaluation: `pycocotools`, whose numbers are the official ones, or `fast`: hotcoco's, which
    are equal. Evaluations during training are always `fast`."""
    seed: int = 0
    """Of fresh weights, order, augmentation and sampling."""


@dataclass(kw_only=True)
class DetectionConfig(TrainingConfig):
    """`python -m detection`: trains a Faster R-CNN and scores it on the validation images."""

    run_dir: str
    """Folder of the run; an unfinished run there goes on."""

    def __post_init__(self) -> None:
        if self.trainer.compile:
            raise ConfigError(f"detection does not support {KEY}trainer.compile = True yet")
        self._check_start()
        require(self, "evaluator", among=EVALUATORS)
        require(self, "validate_every_epochs", "validate_every_steps", least=1)
        if self.validate_every_epochs is not None and self.validate_every_steps is not None:
            raise ConfigError(
                f"{KEY}validate_every_epochs and {KEY}validate_every_steps are both set, give one of them"
            )
        if self.recipe.patience is not None and not (self.validate_every_epochs or self.validate_every_steps):
            raise ConfigError(
                f"{KEY}recipe.patience = {self.recipe.patience} counts evaluations: set "
                f"{KEY}validate_every_epochs or {KEY}validate_every_steps"
            )
        if self.recipe.norm == "group" and self.start.pretrained:
            raise ConfigError(
                f"{KEY}recipe.norm = group needs fresh weights; those of {self.start.label} were "
                "trained with batch norm"
            )
        if self.recipe.norm == "frozen" and not self.start.pretrained:
            raise ConfigError(
                f"{KEY}recipe.norm = frozen needs loaded weights; {self.start.label} starts fresh, and "
                "its statistics are of no images: take auto, batch or group"
            )
        if self.recipe.batch_size != AUTO:
            self.plan()  # refuses images that are not shared out evenly
        elif self.trainer.processes > 1:
            raise ConfigError(
                f"{KEY}recipe.batch_size = auto finds the batch of one device; for more give the number"
            )

    def _check_start(self) -> None:
        source = self.backbone
        given = source.weights or source.name
        if self.init is None and given is None:
            raise ConfigError(
                f"{KEY}backbone.weights = None and {KEY}backbone.name = None: give one, a "
                f"backbone.safetensors or a network's name, or {KEY}init=detector.safetensors"
            )
        if self.init is not None and (given is not None or source.from_scratch):
            key = "from_scratch" if given is None else "name" if source.weights is None else "weights"
            raise ConfigError(f"{KEY}init = {self.init} brings its network; leave out {KEY}backbone.{key}")

    @property
    def start(self) -> BackboneSource:
        """What the detector's backbone is: of `init`, where that is given."""
        return self.backbone if self.init is None else replace(self.backbone, weights=self.init)

    def plan(self) -> StepPlan:
        """Raises ConfigError while `recipe.batch_size` is `auto`, or unless it divides evenly."""
        return StepPlan(self.recipe.images_per_step, self.recipe.accumulate, self.trainer)


@dataclass(kw_only=True)
class PreviewConfig(TrainingConfig):
    """`python -m detection.preview`: draws what a training with the same keys would see.

    Used are `data`, `seed` and the images per step; the other keys of a training have no effect."""

    run: str | None = None
    """Folder of a run whose data, sizes and seed are shown, in place of the keys here."""
    split: str = "train"
    """`train`, as augmented, or `val`, as evaluated."""
    images: int = 9
    """On each sheet, in the order of training."""
    sheets: int = 1
    """To be drawn, or as many as the images fill."""
    epoch: int = 0
    """Of the training, from 0: each has its own order and augmentation."""
    output: str = "preview"
    """Folder of the sheets, `train-1.jpg`, `train-2.jpg`, …; those of before are replaced."""

    def __post_init__(self) -> None:
        require(self, "split", among=SPLITS)
        require(self, "images", least=1, most=100)
        require(self, "sheets", least=1, limit=10_000)
        require(self, "epoch", least=0, limit=1_000_000)
