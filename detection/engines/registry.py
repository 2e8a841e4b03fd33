"""Every engine by the name that the configuration and a weights file give it."""

from collections.abc import Mapping

from detection.engines.config import (
    Detectron2C4Config,
    Detectron2FpnConfig,
    EngineConfig,
    TorchvisionC4Config,
    TorchvisionFpnConfig,
)

ENGINES: Mapping[str, type[EngineConfig]] = {
    kind.engine: kind
    for kind in (TorchvisionFpnConfig, TorchvisionC4Config, Detectron2FpnConfig, Detectron2C4Config)
}

FAMILIES = ("torchvision", "detectron2")
"""What the names begin with: whose operations an engine is made of."""
