"""Which network a run trains, as values."""

from dataclasses import dataclass
from typing import Any

from backbones.genotype import Genotype
from backbones.ranges import require
from backbones.spec import NetworkSpec, check_sizes
from backbones.timm_spec import TimmSpec, timm_extras
from backbones.zoo import resolve_spec, spec_of_genotype, under_name


@dataclass(kw_only=True)
class BackboneConfig:
    """Which network a run trains. None: what the zoo name says, or the default of `NetworkSpec`."""

    name: str
    """A zoo name, the path of a genotype.json (then cells_per_stage and filters are needed), or
    timm/<name>, with image_size and batch_norm_momentum as its only other keys."""
    cells_per_stage: int | None = None
    """Normal cells in each of the three stages."""
    filters: int | None = None
    """Channels of one hidden state in the first stage."""
    stem: str | None = None
    """`imagenet` or `cifar`."""
    stem_filters: int | None = None
    """Channels of the stem's convolution."""
    image_size: int | None = None
    """Side of the training images in pixels."""
    padding: str | None = None
    """`same` or `symmetric`."""
    skip_reduction_input: bool | None = None
    """See `NetworkSpec`."""
    batch_norm_eps: float | None = None
    """Added to the variance."""
    batch_norm_momentum: float | None = None
    """Weight of the newest batch in the running statistics; the paper's 0.0003 needs 10,000s of steps."""

    def __post_init__(self) -> None:
        check_sizes(self)
        require(self, "batch_norm_eps", above=0, most=1)
        require(self, "batch_norm_momentum", above=0, most=1)

    def extras(self) -> dict[str, str]:
        """See `runtime.config.check_extras`."""
        return timm_extras(self.name)

    def _given(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "name" and value is not None}

    def spec(self) -> NetworkSpec | TimmSpec:
        """Raises ValueError or FileNotFoundError that names what was wrong."""
        with under_name():
            return resolve_spec(self.name, **self._given())

    def spec_of(self, genotype: Genotype) -> NetworkSpec:
        """The spec with this genotype instead of the file `name`, which may not be written yet.

        Raises ValueError that names what was wrong.
        """
        return spec_of_genotype(genotype, self.name, self._given())
