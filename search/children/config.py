"""How children are built, trained and scored, as a value."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backbones.genotype import Genotype
from backbones.ranges import KEY, ConfigError, require
from backbones.spec import NetworkSpec, check_sizes
from backbones.words import clipped
from classification.config import MOST_IMAGES
from runtime.config import MOST_PROCESSES, check_device_name

PRECISIONS = ("32-true", "bf16-mixed")


@dataclass(kw_only=True)
class ChildConfig:
    """How a child is built, trained and scored."""

    cells_per_stage: int = 2
    """Normal cells per stage; 2 in the paper."""
    filters: int = 24
    """Channels of a state in the first stage; not stated in the paper."""
    image_size: int = 32
    """Side in pixels to which images are resized on the device."""
    epochs: int = 20
    """Passes over the training images; 20 in the paper."""
    batch_size: int = 64
    """Images per step; an incomplete last batch is left out."""
    lr: float = 0.025
    """Learning rate at the start of the cosine."""
    momentum: float = 0.9
    """Of SGD; 0.9 in the paper."""
    weight_decay: float = 5e-4
    """L2 on convolutions and classifier, not on batch norm."""
    batch_norm_momentum: float = 0.1
    """Weight of the newest batch in the running statistics; trainings below 100 steps want more."""
    clip_norm: float | None = 5.0
    """Largest global norm of the gradient; None does not clip."""
    validation: int | None = None
    """Training images held out for the reward, in the classes' proportions; None: the paper's tenth."""
    training: int | None = None
    """Training images used, in the classes' proportions; None: all that are not held out."""
    stop_below: Any = None
    """Epoch -> accuracy, such as {5: 0.4}: a child below it after that epoch ends, with that accuracy as its
    reward. The search's virtual clock counts it as if it had run to its end."""
    timeout_seconds: float | None = None
    """Wall time after which a child fails; checked at every step."""
    threads: int = 1
    """CPU threads of one child. Rewards repeat exactly only with the same number."""
    deterministic: bool = False
    """Only kernels that give equal bits each time: equal rewards on one model of GPU, slower. For GPUs."""
    precision: str = "32-true"
    """`32-true`, or `bf16-mixed`: on CPUs without bf16 instructions many times slower."""
    channels_last: bool = True
    """Keep images and weights in channels-last order, which convolutions prefer; False: NCHW."""
    device: str = "auto"
    """`auto` (cuda where there is one, else cpu), `cpu`, `cuda` or `cuda:<number>`."""

    def __post_init__(self) -> None:
        check_sizes(self)
        require(self, "epochs", least=1)
        require(self, "threads", least=1, limit=MOST_PROCESSES)
        require(self, "batch_size", least=2, limit=MOST_IMAGES)  # batch norm needs 2
        require(self, "lr", "clip_norm", "validation", "training", "timeout_seconds", above=0)
        require(self, "momentum", least=0, below=1)
        self._check_stop_below()
        require(self, "batch_norm_momentum", above=0, most=1)
        require(self, "weight_decay", least=0)
        require(self, "precision", among=PRECISIONS)
        check_device_name(self.device)

    def _check_stop_below(self) -> None:
        found = {} if self.stop_below is None else self.stop_below
        if isinstance(found, Mapping):  # a stored configuration has its keys as text
            found = {
                int(key) if str(key).isdecimal() and len(str(key)) < 20 else key: value
                for key, value in found.items()
            }
            self.stop_below = found or None
        for epoch, accuracy in found.items() if isinstance(found, Mapping) else [(found, found)]:
            numbers = isinstance(epoch, int) and isinstance(accuracy, int | float)
            if not numbers or not (1 <= epoch < self.epochs and 0 < accuracy <= 1):
                raise ConfigError(
                    f"{KEY}stop_below = {clipped(self.stop_below)}, expected {{epoch: accuracy}} with epochs "
                    f"of at least 1 and below epochs = {self.epochs}, and accuracies in (0, 1], or null"
                )

    def spec(self, genotype: Genotype) -> NetworkSpec:
        """The child's network; the stem is three times as wide as a state (docs/nasnet.md, section 4.1)."""
        return NetworkSpec(
            genotype,
            self.cells_per_stage,
            self.filters,
            stem="cifar",
            stem_filters=3 * self.filters,
            image_size=self.image_size,
            batch_norm_eps=1e-5,
            batch_norm_momentum=self.batch_norm_momentum,
        )
