"""Configurations for commands that look at files: composed once, without Hydra's run."""

from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from conf import register
from conf.app import experiments, refuse_foreign_experiment
from detection.config import DetectionConfig


def detection_experiment(name: str) -> DetectionConfig:
    """What `python -m detection experiment=name` trains, but for its data's root and its backbone.

    Raises ValueError where there is no such experiment; ends the process where it is another command's."""
    refuse_foreign_experiment("detection", [f"experiment={name}"])
    if name not in (known := experiments("detection")):
        raise ValueError(f"unknown experiment {name!r}, expected one of {', '.join(known)}")
    register("detection")
    overrides = [f"experiment={name}", "run_dir=run", "data.root=.", "backbone.name=nasnet_a_mobile"]
    with initialize_config_module("conf", version_base="1.3"):
        config = OmegaConf.to_object(compose("detection", overrides=overrides))
    assert isinstance(config, DetectionConfig)
    return config
