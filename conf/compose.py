"""Configurations for commands that look at files: composed once, without Hydra's run."""

from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from conf import register
from conf.app import EXPERIMENTS, refuse_foreign_experiment
from detection.train import DetectionConfig


def detection_experiment(name: str) -> DetectionConfig:
    """What `python -m detection experiment=name` trains, but for its data's root and its backbone.

    Raises ValueError where there is no such file; ends the process where it is another command's."""
    if not (EXPERIMENTS / f"{name}.yaml").is_file():
        known = ", ".join(sorted(path.stem for path in EXPERIMENTS.glob("*.yaml")))
        raise ValueError(f"unknown experiment {name!r}, expected one of {known}")
    refuse_foreign_experiment("detection", [f"experiment={name}"])
    register()
    overrides = [f"experiment={name}", "run_dir=run", "data.root=.", "backbone.name=nasnet_a_mobile"]
    with initialize_config_module("conf", version_base="1.3"):
        config = OmegaConf.to_object(compose("detection", overrides=overrides))
    assert isinstance(config, DetectionConfig)
    return config
