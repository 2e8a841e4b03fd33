"""Configurations composed as a command composes them, without Hydra's run."""

from typing import Any

from hydra import compose, initialize_config_module

from conf import register
from conf.app import experiments, refuse_foreign_experiment
from conf.objects import to_objects
from detection.training.config import DetectionConfig


def composed(command: str, *overrides: str) -> Any:
    """The root dataclass of `python -m command overrides…`, its ranges checked.

    command: the name of a configuration, such as `detection_evaluate`. Raises what Hydra and OmegaConf raise,
    or ValueError."""
    register(command)
    with initialize_config_module("conf", version_base="1.3"):
        return to_objects(compose(command, overrides=list(overrides)))


def detection_experiment(name: str) -> DetectionConfig:
    """What `python -m detection experiment=name` trains, but for its data's root and its backbone.

    Raises ValueError where there is no such experiment; ends the process where it is another command's."""
    refuse_foreign_experiment("detection", [f"experiment={name}"])
    if name not in (known := experiments("detection")):
        raise ValueError(f"unknown experiment {name!r}, expected one of {', '.join(known)}")
    given = ["run_dir=run", "data.root=.", "backbone.name=nasnet_a_mobile"]
    return composed("detection", f"experiment={name}", *given)
