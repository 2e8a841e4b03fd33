"""Every engine by the name that the configuration and a weights file give it."""

from collections.abc import Mapping

from detection.engines.base import EngineConfig
from detection.engines.torchvision import TorchvisionFpnConfig

ENGINES: Mapping[str, type[EngineConfig]] = {kind.engine: kind for kind in (TorchvisionFpnConfig,)}
