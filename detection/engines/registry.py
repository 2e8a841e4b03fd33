"""Every engine by the name that the configuration and a weights file give it."""

from collections.abc import Mapping

from detection.engines.base import EngineConfig
from detection.engines.detectron2_config import Detectron2C4Config, Detectron2FpnConfig
from detection.engines.torchvision import TorchvisionFpnConfig
from detection.engines.torchvision_c4 import TorchvisionC4Config

ENGINES: Mapping[str, type[EngineConfig]] = {
    kind.engine: kind
    for kind in (TorchvisionFpnConfig, TorchvisionC4Config, Detectron2FpnConfig, Detectron2C4Config)
}
