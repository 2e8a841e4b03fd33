"""Images, recipe, training and evaluation of a classifier as values.

Recipes of the paper: docs/nasnet.md, sections 5.1 and 5.2. Their YAML files are in `conf/recipe`, beside that
of a recipe as it is usual today.
"""

from dataclasses import dataclass, field

from backbones.config import BackboneConfig
from runtime.config import LoggerConfig, TrainerConfig, check_device_name

DATA_SETS = ("digits", "cifar10", "fashion_mnist", "imagefolder")
OPTIMIZERS = ("sgd", "rmsprop", "adamw")
BATCH_SIZE = 256
"""Images per forward pass where nothing says otherwise."""


@dataclass(kw_only=True)
class ImageDataConfig:
    """A classification data set and how its images reach the network."""

    name: str = "digits"
    """`digits` (inside scikit-learn), `cifar10` (torchvision's archive or class folders), `fashion_mnist`,
    or `imagefolder`: `<root>/<split folder>/<class>/<image>`, ImageNet's layout."""
    root: str | None = None
    """Folder of the data set; only `digits` needs none."""
    download: bool = False
    """Fetch cifar10 or fashion_mnist into `root` where it is absent."""
    train_folder: str = "train"
    """Folder of the training images under `root`, for class folders."""
    test_folder: str | None = None
    """Folder of the evaluation images; None: `test`, or `val` where there is no `test`."""
    train_limit: int | None = None
    """Use only so many training images, in the classes' proportions; None: all."""
    test_limit: int | None = None
    """The same for the evaluation images."""
    limit_seed: int = 0
    """Chooses which images a limit keeps."""
    resident: bool | None = None
    """Hold all images in memory as uint8 (needs squares of one size) and crop by padding; False decodes
    each image when it is needed and crops as Inception does; None: resident except for `imagefolder`."""
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
        if self.name not in DATA_SETS:
            raise ValueError(f"data.name = {self.name!r}, known are: {', '.join(DATA_SETS)}")
        if self.download and self.name not in ("cifar10", "fashion_mnist"):
            raise ValueError(f"data.download = true, but data.name = {self.name} cannot be downloaded")
        for key in ("train_limit", "test_limit"):
            if (value := getattr(self, key)) is not None and value < 1:
                raise ValueError(f"data.{key} = {value}, must be at least 1, or null for all images")
        for key in ("workers", "crop_padding"):
            if (value := getattr(self, key)) < 0:
                raise ValueError(f"data.{key} = {value}, must be at least 0")
        for key in ("crop_area_min", "eval_crop"):
            if not 0 < (value := getattr(self, key)) <= 1:
                raise ValueError(f"data.{key} = {value}, must lie in (0, 1]")
        if self.color_jitter and self.is_resident:
            raise ValueError("data.color_jitter = true changes decoded images only; set data.resident=false")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(
                f"data.mean = {self.mean}, data.std = {self.std}: both need 3 numbers, std above 0"
            )

    @property
    def is_resident(self) -> bool:
        return self.name != "imagefolder" if self.resident is None else self.resident

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
    lr_batch_size: int | None = None
    """Images per step that `lr` is meant for; the rate used is lr * batch_size / lr_batch_size. None: lr."""
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
    rand_augment: int = 0
    """Operations of RandAugment on each training image; 0: none, 2 is usual."""
    rand_augment_magnitude: int = 9
    """Strength of those operations, 0..30."""
    mixup_alpha: float = 0.0
    """Each batch is blended with itself in another order, by a share from Beta(alpha, alpha). 0: off."""
    cutmix_alpha: float = 0.0
    """The same with a rectangle of the other image instead; with both, each batch takes either. 0: off."""

    def __post_init__(self) -> None:
        for key in ("epochs", "batch_size", "accumulate", "lr_batch_size"):
            if (value := getattr(self, key)) is not None and value < 1:
                raise ValueError(f"recipe.{key} = {value}, must be at least 1")
        if self.batch_size % self.accumulate:
            raise ValueError(f"recipe.batch_size = {self.batch_size} is no multiple of accumulate")
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"recipe.optimizer = {self.optimizer!r}, known are {', '.join(OPTIMIZERS)}")
        if self.schedule not in ("cosine", "exponential"):
            raise ValueError(f"recipe.schedule = {self.schedule!r}, known are cosine and exponential")
        for key in ("lr", "rms_epsilon", "lr_decay", "lr_decay_epochs", "clip_norm"):
            if (value := getattr(self, key)) is not None and not value > 0:
                raise ValueError(f"recipe.{key} = {value}, must be above 0")
        for key in ("momentum", "rms_decay", "adam_decay", "label_smoothing", "dropout", "ema_decay"):
            if (value := getattr(self, key)) is not None and not 0 <= value < 1:
                raise ValueError(f"recipe.{key} = {value}, must lie in [0, 1)")
        if not 0 < self.drop_path_keep <= 1:
            raise ValueError(f"recipe.drop_path_keep = {self.drop_path_keep}, must lie in (0, 1]")
        for key in (
            "weight_decay",
            "auxiliary_weight",
            "cutout",
            "rand_augment",
            "mixup_alpha",
            "cutmix_alpha",
        ):
            if (value := getattr(self, key)) < 0:
                raise ValueError(f"recipe.{key} = {value}, must not be negative")
        if not 0 <= self.rand_augment_magnitude <= 30:
            raise ValueError(
                f"recipe.rand_augment_magnitude = {self.rand_augment_magnitude}, must lie in 0..30"
            )
        if not 0 <= self.warmup_epochs < self.epochs:
            raise ValueError(
                f"recipe.warmup_epochs = {self.warmup_epochs}, must lie in 0..{self.epochs} and below epochs"
            )

    @property
    def scaled_lr(self) -> float:
        return self.lr * self.batch_size / (self.lr_batch_size or self.batch_size)


@dataclass(kw_only=True)
class ClassificationConfig:
    """One training of one network on one data set."""

    seed: int = 0
    """Of weights, order, augmentation, dropout and drop path."""
    run_dir: str = "runs/classification"
    """Folder of the run; started again with it, a run continues."""
    data: ImageDataConfig
    backbone: BackboneConfig = field(default_factory=lambda: BackboneConfig(name="nasnet_a_cifar"))
    recipe: RecipeConfig = field(default_factory=RecipeConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    validate_every_epochs: int | None = 1
    """Epochs between two evaluations during training; None: only at the end."""
    eval_batch_size: int = BATCH_SIZE
    """Images per forward pass in evaluation."""

    def __post_init__(self) -> None:
        for key in ("validate_every_epochs", "eval_batch_size"):
            if (value := getattr(self, key)) is not None and value < 1:
                raise ValueError(f"{key} = {value}, must be at least 1")
        if self.recipe.cutout and not self.data.is_resident:
            raise ValueError(
                f"recipe.cutout = {self.recipe.cutout} cuts resident images only; set data.resident=true, "
                "or recipe.cutout=0"
            )
        recipe, devices, nodes = self.recipe, self.trainer.devices, self.trainer.num_nodes
        batch, parts = recipe.batch_size, recipe.accumulate * devices * nodes
        shares = (
            "recipe.accumulate x trainer.devices x trainer.num_nodes = "
            f"{recipe.accumulate} x {devices} x {nodes}"
        )
        if batch % parts:
            raise ValueError(f"recipe.batch_size = {batch}, must be a multiple of {shares}")
        if (recipe.mixup_alpha or recipe.cutmix_alpha) and batch == parts:
            raise ValueError(
                f"recipe.batch_size = {batch} and {shares} leave 1 image for a backward pass; "
                "mixup and cutmix need 2"
            )


@dataclass(kw_only=True)
class EvaluateConfig:
    """Which weights, on which images."""

    weights: str
    """A `backbone.safetensors`."""
    data: ImageDataConfig
    split: str = "test"
    """`test` or `train`."""
    batch_size: int | None = None
    """Images per forward pass; None: as in the evaluation that the file's metrics are of, 256 where there was
    none. Another size may change the loss in its seventh digit."""
    device: str = "auto"
    """`auto` (cuda where there is one, else cpu), `cpu`, `cuda` or `cuda:<number>`."""
    threads: int | None = None
    """Threads of PyTorch on CPU; None: PyTorch's choice."""
    output: str | None = None
    """Folder for metrics.json and mistakes.json, of which `python -m pipeline.report` makes a page; None: the
    metrics are only printed."""
    logger: LoggerConfig = field(default_factory=lambda: LoggerConfig(name="none"))
    """Where the figures, the confusion matrix and the worst images go besides; needs `output`."""

    def __post_init__(self) -> None:
        check_device_name(self.device)
        for key in ("batch_size", "threads"):
            if (value := getattr(self, key)) is not None and value < 1:
                raise ValueError(f"{key} = {value}, must be at least 1")
        if self.split not in ("test", "train"):
            raise ValueError(f"split = {self.split!r}, must be train or test")
        if self.logger.name != "none" and self.output is None:
            raise ValueError(f"logger = {self.logger.name}, but there is no output folder; set output=DIR")
