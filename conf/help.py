"""What `--help` says of a command that takes `key=value`: its usual forms, its choices, its most used keys.

The sentences about keys are those of the dataclasses, the values those that would be run.
"""

import ast
import functools
import inspect
import re
import textwrap
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from celltransfer import COMMANDS, program
from conf import choices, roots
from runtime.overrides import override

WIDTH = 100
NETWORKS = ("cifar", "cifar_large", "mobile", "5x1536", "7x1920", "large")
IMAGES = ("folder", "digits", "cifar10", "fashion_mnist", "imagenet", "imagefolder")
BOXES = ("folder", "coco", "scenes")
EXECUTORS = ("inline", "process", "ray")
LOGGERS = ("none", "csv", "tensorboard", "wandb")
CLASSIFIER = ("weights", "data.root", "split", "batch_size", "device", "output")
Parts = Mapping[str, Mapping[str, Any]]
"""Dataclasses, or objects of them, by group and choice."""
DETECTOR = ("weights", "predictions", "data.root", "evaluator", "device", "output")


@dataclass(frozen=True)
class Help:
    """Of one command. forms: words after its name. choices: by group. keys: those that users change most."""

    forms: Sequence[str]
    choices: Mapping[str, Sequence[str]]
    keys: Sequence[str]


HELPS: Mapping[str, Help] = {
    "search": Help(
        (
            "data=digits child.epochs=3 budget.children=100",
            "data=cifar10 data.root=DIR budget.children=1000 executor=process",
            "data=folder data.root=DIR run_dir=DIR",
        ),
        {
            "data": IMAGES,
            "strategy": ("controller", "random", "evolution", "prim_skip"),
            "executor": EXECUTORS,
            "logger": LOGGERS,
        },
        (
            *("run_dir", "seed", "data.root", "budget.children", "budget.hours", "child.epochs"),
            *("child.filters", "child.cells_per_stage", "child.training", "child.lr", "child.image_size"),
            *("objective.cost", "limits.multiply_adds", "limits.latency_ms", "metric", "window"),
        ),
    ),
    "search_rerank": Help(
        ("dir=RUN_DIR top=25", "dir=RUN_DIR top=25 seeds=3 child.epochs=60 executor=process"),
        {"executor": EXECUTORS},
        ("dir", "run_dir", "top", "by", "cost", "seeds", "child.epochs", "sizes.filters", "latency.height"),
    ),
    "search_probe": Help(
        (
            "data=digits child.epochs=3 epochs=30",
            "data=cifar10 data.root=DIR child.epochs=5 epochs=40 executor=process",
        ),
        {"data": IMAGES, "executor": EXECUTORS},
        ("run_dir", "data.root", "cells", "seeds", "child.epochs", "epochs", "child.filters", "child.lr"),
    ),
    "search_simulate": Help(
        ("children=20000 workers=500 window=1000", "children=2000 workers=8 window=16 strategy=random"),
        {"strategy": ("controller", "random", "evolution", "prim_skip")},
        ("children", "workers", "window", "spread", "order", "seed", "ledger_file"),
    ),
    "classification": Help(
        (
            "experiment=own_classes data.root=DIR",
            "backbone=nasnet_a_mobile data=folder data.root=DIR recipe.epochs=100",
            "backbone=genotype backbone.name=genotype.json backbone.filters=44 data=imagenet data.root=DIR",
            "-m data=digits recipe.lr=0.01,0.025",
        ),
        {
            "backbone": ("genotype", *(f"nasnet_a_{each}" for each in NETWORKS)),
            "data": IMAGES,
            "recipe": ("nasnet_cifar", "nasnet_imagenet_mobile", "nasnet_imagenet_large", "modern"),
            "logger": LOGGERS,
        },
        (
            *("run_dir", "seed", "data.root", "backbone.name", "backbone.cells_per_stage"),
            *("backbone.filters", "backbone.image_size", "recipe.epochs", "recipe.batch_size", "recipe.lr"),
            *("trainer.device", "trainer.devices", "trainer.precision"),
        ),
    ),
    "classification_evaluate": Help(
        ("weights=backbone.safetensors data=folder data.root=DIR", "weights=FILE data=digits output=DIR"),
        {"data": IMAGES, "logger": LOGGERS},
        CLASSIFIER,
    ),
    "detection": Help(
        (
            "experiment=own_photos data.root=DIR",
            "backbone.weights=backbone.safetensors data=coco data.root=DIR",
            "backbone.name=nasnet_a_mobile data=coco data.root=DIR",
            "backbone.weights=FILE data=scenes",
        ),
        {
            "data": BOXES,
            "detector": ("torchvision_fpn", "torchvision_c4", "detectron2_fpn", "detectron2_c4"),
            "recipe": ("detectron2_1x", "nasnet_coco"),
            "logger": LOGGERS,
        },
        (
            *("run_dir", "seed", "backbone.weights", "backbone.from_scratch", "init", "data.root"),
            *("data.train_annotations", "data.val_annotations", "recipe.batch_size", "recipe.epochs"),
            *("recipe.steps", "recipe.lr", "trainer.device", "trainer.devices", "trainer.precision"),
        ),
    ),
    "detection_preview": Help(
        (
            "experiment=own_photos data.root=DIR",
            "data=folder data.root=DIR split=val output=DIR",
            "run=RUN_DIR sheets=10",
        ),
        {"data": BOXES},
        (
            *("data.root", "run", "split", "images", "sheets", "epoch", "output", "seed"),
            *("data.max_size", "data.flip", "data.scale_jitter", "data.color_jitter"),
        ),
    ),
    "detection_evaluate": Help(
        (
            "weights=detector.safetensors data=folder data.root=DIR",
            "predictions=FILE data=coco data.root=DIR",
        ),
        {"data": BOXES, "logger": LOGGERS},
        DETECTOR,
    ),
    "pipeline": Help(
        (
            "experiment=demo",
            "data=folder data.root=DIR detection.data.root=DIR",
            "data=folder data.root=DIR data@detection.data=labelled_folder detection.data.root=DIR",
            "experiment=cifar_to_bccd data.root=DIR detection.data.root=DIR run_dir=DIR",
        ),
        {"data": (*IMAGES, "labelled_folder"), "logger": LOGGERS},
        (
            *("run_dir", "seed", "data.root", "detection.data.root", "search.budget.children"),
            *("search.child.epochs", "classification.recipe.epochs", "detection.recipe.epochs"),
        ),
    ),
    "pipeline_machine": Help(
        ("experiment=own_machine data.root=CLASSES detection.data.root=PHOTOGRAPHS run_dir=DIR",),
        {"data": IMAGES, "logger": LOGGERS},
        (
            *("run_dir", "seed", "data.root", "detection.data.root", "search.budget.children", "cells"),
            *("search.limits.latency_ms", "search.latency.threads", "classification.recipe.epochs"),
            "detection.recipe.steps",
        ),
    ),
}


def register_help(command: str, own: Sequence[str]) -> str:
    """Makes the help of a command a choice of `hydra/help`; returns the word that takes it.

    command: the name of its configuration. own: its experiments."""
    OmegaConf.register_new_resolver("help_key", _key, replace=True)
    template = _template(command, roots()[command], choices(command), own)
    ConfigStore.instance().store(group="hydra/help", name="celltransfer", node={"template": template})
    return "hydra/help=celltransfer"


def _key(key: str, _root_: DictConfig) -> str:
    """A key with its value as the user would type both; `…` where the user has to give it."""
    try:
        shown = override(key, OmegaConf.select(_root_, key, throw_on_missing=True))
    except OmegaConfBaseException:
        shown = f"{key}=…"
    return shown.replace("$", "$$")  # Hydra substitutes names after a $


def _template(command: str, root: type, parts: Parts, own: Sequence[str]) -> str:
    """The value of a key is an interpolation, which Hydra resolves."""
    known, called = HELPS[command], program(command.replace("_", "."))
    groups = {**known.choices, **({"experiment": own} if own else {})}
    width = max(len(group) for group in groups)
    lines = [
        f"{called}: {COMMANDS[command.replace('_', '.')]}",
        *("", "Usual forms:"),
        *(f"  {called} {form}" for form in known.forms),
        *("", "Choices (GROUP=CHOICE):"),
        *(
            _wrapped(f"  {f'{group}:':{width + 1}} {', '.join(each)}", width + 4)
            for group, each in groups.items()
        ),
        *("", "Keys that are changed most (KEY=VALUE; the values here are those of this command line):"),
    ]
    for key in known.keys:
        lines += [f"  ${{help_key:{key}}}", _wrapped(f"      {_sentence(root, key, parts)}", 6)]
    part = next((key.split(".")[0] for key in known.keys if "." in key), None)
    more = {"… --cfg job": "all keys with their values; runs nothing"}
    more |= {f"… --cfg job --package {part}": f"the keys of {part} alone"} if part else {}
    more |= {"-m KEY=A,B": "one run for each value", "--hydra-help": "options of Hydra"}
    column = max(map(len, more))
    lines += ["", "More:", *(f"  {called} {words:{column}}  {text}" for words, text in more.items())]
    return "\n".join(lines)


def _wrapped(text: str, indent: int) -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent=" " * indent, break_on_hyphens=False)


def _sentence(root: type, key: str, parts: Parts) -> str:
    """What the dataclass says of a key."""
    kinds: list[Any] = [root]
    *groups, name = key.split(".")
    for group in groups:
        found = [typing.get_type_hints(kind)[group] for kind in kinds]
        kinds = [kind for kind in found if kind is not Any]
        if not kinds:
            kinds = [each if isinstance(each, type) else type(each) for each in parts[group].values()]
    said = next(text for kind in kinds if (text := _documented(kind).get(name)))
    return re.sub(r"\bNone\b", "null", " ".join(said.split()))  # as it is typed


@functools.cache
def _documented(kind: type) -> dict[str, str]:
    """The strings below the fields of a dataclass and of those it derives from, by field."""
    found: dict[str, str] = {}
    for each in reversed([base for base in kind.__mro__ if base is not object]):
        (defined,) = ast.parse(textwrap.dedent(inspect.getsource(each))).body
        assert isinstance(defined, ast.ClassDef)
        for field, text in zip(defined.body, defined.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                found[ast.unparse(field.target)] = str(ast.literal_eval(text.value))
    return found
