"""Images, recipe, training and evaluation of a classifier as values.

Recipes of the paper: docs/nasnet.md, sections 5.1 and 5.2. Their YAML files are in `conf/recipe`, beside that
of a recipe as it is usual today.
"""

from dataclasses import dataclass, field

from backbones.config import BackboneConfig
from backbones.ranges import KEY, ConfigError, require
from backbones.spec import HEAD_INITS
from backbones.words import clipped
from runtime.config import MOST_PROCESSES, EvaluationConfig, LoggerConfig, TrainerConfig
from runtime.steps import StepPlan, scaled_rate

DATA_SETS = ("digits", "cifar10", "fashion_mnist", "imagefolder", "folder")
OPTIMIZERS = ("sgd", "rmsprop", "adamw")
SCHEDULES = ("cosine", "exponential")
BATCH_SIZE = 256
"""Images per forward pass where nothing says otherwise."""
MOST_IMAGES = 1_000_000
"""Images of one step or forward pass that a key may ask for."""
MOST_PADDING = 1024
"""Pixels around a resident image."""
LEAST_STD = 0.001
"""Deviation of pixels in 0..1; a quarter of a grey level."""


@dataclass(kw_only=True)
class ImageDataConfig:
    """A classification data set and how its images reach the network."""

    name: str = "digits"
    """`digits` (inside scikit-learn), `cifar10` (torchvision's archive or class folders), `fashion_mnist`,
    or `imagefolder`: `<root>/<split folder>/<class>/<image>`, ImageNet's layout. Class folders may lie in zip
    archives in `root`, or `root` may be one. `folder`: class folders with or without a split, recognised."""
    root: str | None = None
    """Folder of the data set; only `digits` needs none."""
    download: bool = False
    """Fetch cifar10 or fashion_mnist into `root` where it is absent."""
    train_folder: str = "train"
    """Folder of the training images under `root`, for class folders."""
    test_folder: str | None = None
    """Folder of the evaluation images; None: `test`, else `val`, else `valid`."""
    val_fraction: float = 0.2
    """Share of the images of each class held out for evaluation, drawn by their names, where a `folder` has
    no split."""
    split_seed: int = 0
    """Of that drawing; not the run's seed, so that runs compare."""
    train_limit: int | None = None
    """Use only so many training images, in the classes' proportions; None: all."""
    test_limit: int | None = None
    """The same for the evaluation images."""
    limit_seed: int = 0
    """Chooses which images a limit keeps."""
    resident: bool | None = None
    """Hold all images in memory as uint8 (needs squares of one size) and crop by padding; False decodes
    each image when it is needed and crops as Inception does; None: resident except for `imagefolder`
    and `folder`."""
    workers: int = 0
    """Processes that decode images; resident images need none."""
    flip: bool = True
    """Mirror half of the training images; wrong for digits."""
    crop_padding: int = 4
    """Pixels of zeros around a resident image, before resizing, from which training crops."""
    crop_area_min: float = 0.05
    """Smallest share of a decoded image that a training crop covers, in (0, 1]."""
    eval_crop: float = 1.0
    """Side of the central square that evaluation sees, as a share of the image's shorter side, in (0, 1];
    0.875 is usual on ImageNet. Resident images are always seen whole."""
    color_jitter: bool = False
    """Change brightness and saturation of decoded training images as Inception does (its fast mode)."""
    mean: list[float] = field(default_factory=lambda: [0.5, 0.5, 0.5])
    """Per channel, on the scale 0..1, subtracted from the pixels."""
    std: list[float] = field(default_factory=lambda: [0.5, 0.5, 0.5])
    """Per channel, divides afterwards."""

    def __post_init__(self) -> None:
        require(self, "name", among=DATA_SETS)
        require(self, "val_fraction", above=0, below=1)
        require(self, "train_limit", "test_limit", least=1)
        require(self, "workers", least=0, limit=MOST_PROCESSES)
        require(self, "crop_padding", least=0, limit=MOST_PADDING)
        require(self, "crop_area_min", "eval_crop", above=0, most=1)
        if self.download and self.name not in ("cifar10", "fashion_mnist"):
            raise ConfigError(f"{KEY}download = true, but {KEY}name = {self.name} cannot be downloaded")
        if self.color_jitter and self.is_resident:
            raise ConfigError(
                f"{KEY}color_jitter = true changes decoded images only; set {KEY}resident=false"
            )
        if len(self.mean) != 3 or not all(0 <= value <= 1 for value in self.mean):
            raise ConfigError(
                f"{KEY}mean = {clipped(self.mean)}, must be 3 numbers in 0..1, on the scale of 0..1"
            )
        if len(self.std) != 3 or not all(LEAST_STD <= value <= 1 for value in self.std):
            raise ConfigError(
                f"{KEY}std = {clipped(self.std)}, must be 3 numbers in {LEAST_STD}..1, on the scale of 0..1"
            )

    @property
    def is_resident(self) -> bool:
        return self.name not in ("imagefolder", "folder") if self.resident is None else self.resident

    def extras(self) -> dict[str, str]:
        """See `runtime.config.check_extras`."""
        return {"sklearn": "demo"} if self.name == "digits" else {}


@dataclass(kw_only=True)
class RecipeConfig:
    """How a network is trained. The defaults are the paper's for CIFAR-10."""

    epochs: int = 600
    """Passes over the training images."""
    batch_size: int = 32
    """Images per optimiser step, on all devices together."""
    accumulate: int = 1
    """Backward passes per optimiser step; more need less memory for the same `batch_size`."""
    optimizer: str = "sgd"
    """`sgd`, `rmsprop` (TensorFlow's) or `adamw`."""
    lr: float = 0.025
    """Learning rate at the start, or after the warm-up."""
    reference_batch_size: int | None = None
    """Images per step that `lr` is meant for; the rate used is lr * batch_size / reference_batch_size, with
    the square root of that ratio for adamw. None: `lr` as it is."""
    momentum: float = 0.9
    """Share of the last step in the next, in [0, 1); for adamw that of the old mean gradient in the new."""
    rms_decay: float = 0.9
    """Share of the old mean square in the new, for rmsprop."""
    rms_epsilon: float = 1.0
    """Added to the mean square under the root, for rmsprop."""
    adam_decay: float = 0.999
    """Share of the old mean square in the new, for adamw."""
    schedule: str = "cosine"
    """`cosine`: one half period from lr to 0. `exponential`: lr times `lr_decay` every `lr_decay_epochs`."""
    lr_decay: float = 0.97
    """Factor of the exponential schedule."""
    lr_decay_epochs: float = 2.4
    """Epochs between two of its steps."""
    warmup_epochs: float = 0.0
    """Epochs in which the rate rises linearly from near 0 to lr; the cosine falls over the rest."""
    weight_decay: float = 5e-4
    """On the weights of convolutions and linear layers, not on norms and biases: the factor of L2, as part of
    the loss, for sgd and rmsprop; for adamw it shrinks the weights by lr * weight_decay per step."""
    clip_norm: float | None = 5.0
    """Largest global norm of the gradient, L2's included; None: not clipped."""
    label_smoothing: float = 0.0
    """Share of the target that is spread over all classes, in [0, 1)."""
    auxiliary_weight: float = 0.4
    """Weight of the auxiliary head's loss; 0: no such head."""
    drop_path_keep: float = 0.6
    """Probability at the end of training that a path of the last cell is kept, in (0, 1]; 1: off."""
    dropout: float = 0.0
    """Probability of dropping a feature before the classifier, in [0, 1)."""
    ema_decay: float | None = None
    """Decay per step of the average of the weights that is evaluated and saved; None: the weights as such."""
    cutout: int = 0
    """Side in pixels of the square blanked in each training image; 0: none. Resident images only."""
    head_init: str = "fan_in"
    """Start of the classifiers of networks of cells. `fan_in`: the first loss is near that of a guess.
    `fan_out`: TF-slim's, the paper's, whose first loss is large where there are few classes."""
    rand_augment: int = 0
    """Operations of RandAugment on each training image; 0: none, 2 is usual."""
    rand_augment_magnitude: int = 9
    """Strength of those operations, 0..30."""
    mixup_alpha: float = 0.0
    """Each batch is blended with itself in another order, by a share from Beta(alpha, alpha). 0: off."""
    cutmix_alpha: float = 0.0
    """The same with a rectangle of the other image instead; with both, each batch takes either. 0: off."""

    def __post_init__(self) -> None:
        require(self, "epochs", least=1)
        require(self, "batch_size", "accumulate", "reference_batch_size", least=1, limit=MOST_IMAGES)
        require(self, "optimizer", among=OPTIMIZERS)
        require(self, "schedule", among=SCHEDULES)
        require(self, "head_init", among=HEAD_INITS)
        require(self, "lr", "rms_epsilon", "clip_norm", above=0)
        require(self, "lr_decay", above=0, most=1)
        require(self, "lr_decay_epochs", least=0.001)
        require(self, "momentum", "rms_decay", "adam_decay", least=0, below=1)
        require(self, "label_smoothing", "dropout", "ema_decay", least=0, below=1)
        require(self, "drop_path_keep", above=0, most=1)
        require(self, "weight_decay", "auxiliary_weight", "cutout", least=0)
        require(self, "rand_augment", least=0, limit=100)
        require(self, "mixup_alpha", "cutmix_alpha", least=0, limit=100)
        require(self, "rand_augment_magnitude", least=0, most=30)
        require(self, "warmup_epochs", least=0, below=self.epochs)

    @property
    def scaled_lr(self) -> float:
        """By the square root of the images per step for adamw, else in proportion to them."""
        power = 0.5 if self.optimizer == "adamw" else 1.0
        return scaled_rate(self.lr, self.batch_size, self.reference_batch_size, power)


@dataclass(kw_only=True)
class ClassificationConfig:
    """One training of one network on one data set."""

    seed: int = 0
    """Of weights, order, augmentation, dropout and drop path."""
    run_dir: str = "runs/classification"
    """Folder of the run; started again with it, a run continues."""
    data: ImageDataConfig
    backbone: BackboneConfig = field(default_factory=lambda: BackboneConfig(name="nasnet_a_cifar"))
    init: str | None = None
    """A backbone.safetensors, or timm/NAME, a network of timm with its released weights, to start from. It
    brings its network and preprocessing, in place of `backbone`, `data.mean` and `data.std`. Rows of classes
    of equal names are kept, those of others start fresh."""
    continues: str | None = None
    """Folder of a finished run whose last state this run begins with; it has the same configuration, but for
    its length. None: what the run in `run_dir` says."""
    recipe: RecipeConfig = field(default_factory=RecipeConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    validate_every_epochs: int | None = 1
    """Epochs between two evaluations during training; None: only at the end."""
    eval_batch_size: int = BATCH_SIZE
    """Images per forward pass in evaluation."""

    def __post_init__(self) -> None:
        require(self, "validate_every_epochs", least=1)
        require(self, "eval_batch_size", least=1, limit=MOST_IMAGES)
        recipe = self.recipe
        if recipe.cutout and not self.data.is_resident:
            raise ConfigError(
                f"{KEY}recipe.cutout = {recipe.cutout} cuts resident images only; set "
                f"{KEY}data.resident=true, or {KEY}recipe.cutout=0"
            )
        together = self.plan().images_per_pass
        if (recipe.mixup_alpha or recipe.cutmix_alpha) and together == 1:
            raise ConfigError(
                f"{KEY}recipe.batch_size = {recipe.batch_size} leaves 1 image for each backward pass; mixup "
                "and cutmix need 2"
            )

    def plan(self) -> StepPlan:
        """Raises ConfigError unless `batch_size` divides evenly."""
        return StepPlan(self.recipe.batch_size, self.recipe.accumulate, self.trainer)


@dataclass(kw_only=True)
class EvaluateConfig(EvaluationConfig):
    """Which weights, on which images."""

    weights: str
    """A `backbone.safetensors`."""
    data: ImageDataConfig
    split: str = "test"
    """`test` or `train`."""
    batch_size: int | None = None
    """Images per forward pass; None: as in the evaluation that the file's metrics are of, 256 where there was
    none. Another size may change the loss in its seventh digit."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "batch_size", least=1, limit=MOST_IMAGES)
        require(self, "split", among=("test", "train"))
