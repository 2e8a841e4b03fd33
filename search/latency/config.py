"""Which network of a child is timed, and how, as a value."""

from dataclasses import dataclass

from backbones.ranges import require
from backbones.spec import LARGEST_IMAGE, NetworkSpec, check_imagenet_stem, check_sizes
from runtime.config import MOST_PROCESSES

LATENCY = "latency_ms"
"""The metric's name."""
ENGINES = ("openvino", "torch")
PRECISIONS = ("f32", "bf16")


@dataclass(kw_only=True)
class LatencyConfig:
    """The feature extractor of a detector, made of the child's cells, for one image on this CPU."""

    engine: str = "openvino"
    """`openvino`: exported and run there, as a deployed detector is; some 10 s of conversion for each cell.
    `torch`: PyTorch's own kernels, which start at once and run slower."""
    height: int = 320
    """Of the image, in pixels."""
    width: int = 416
    """Likewise."""
    cells_per_stage: int = 1
    """Normal cells in each of the three stages."""
    filters: int = 24
    """Channels of a state in the first stage; a multiple of 4."""
    stem_filters: int = NetworkSpec.stem_filters
    """Channels of the stem's convolution, as `backbone.stem_filters` of the detector's classifier."""
    threads: int = 1
    """CPU threads of one network."""
    precision: str = "f32"
    """`f32`, or `bf16`: on processors without instructions for it OpenVINO refuses, and torch is slow."""
    calibration: int = 16
    """Random cells that are timed once to learn how costs become milliseconds on this machine; only
    `limits.latency_ms` needs it."""

    def __post_init__(self) -> None:
        check_sizes(self)
        require(self, "engine", among=ENGINES)
        require(self, "precision", among=PRECISIONS)
        require(self, "height", "width", least=32, most=LARGEST_IMAGE)
        require(self, "threads", least=1, limit=MOST_PROCESSES)
        require(self, "calibration", least=8, limit=1000)
        check_imagenet_stem(self)
