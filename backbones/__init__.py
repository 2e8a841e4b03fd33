"""What a genotype is and the network it becomes."""

from backbones.genotype import Block, Cell, Genotype, GenotypeError
from backbones.network import FeatureInfo, NASNet
from backbones.profile import Profile, profile
from backbones.spec import NetworkSpec, Preprocessing
from backbones.weights import load, save
from backbones.zoo import BackboneConfig, create, list_models

__all__ = [
    "BackboneConfig",
    "Block",
    "Cell",
    "FeatureInfo",
    "Genotype",
    "GenotypeError",
    "NASNet",
    "NetworkSpec",
    "Preprocessing",
    "Profile",
    "create",
    "list_models",
    "load",
    "profile",
    "save",
]
