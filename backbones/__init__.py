"""What a genotype is and the network it becomes."""

from backbones.base import Backbone, FeatureInfo
from backbones.costs import Profile, profile
from backbones.genotype import Block, Cell, Genotype, GenotypeError
from backbones.image_transforms import transforms
from backbones.network import NASNet
from backbones.spec import NetworkSpec, Preprocessing
from backbones.weights import convert, load, save
from backbones.zoo import BackboneConfig, create, list_models

__all__ = [
    "Backbone",
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
    "convert",
    "create",
    "list_models",
    "load",
    "profile",
    "save",
    "transforms",
]
