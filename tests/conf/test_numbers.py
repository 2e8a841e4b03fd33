"""Every number of every configuration is finite and in range before anything starts."""

import copy
import dataclasses
import math
import typing

import pytest
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ValidationError

import conf
from backbones.ranges import ConfigError
from conf.objects import to_objects

GIVEN = {
    "search": ["run_dir=run", "data=digits"],
    "search_simulate": [],
    "classification": ["run_dir=run", "data=digits"],
    "detection": ["run_dir=run", "data=scenes", "backbone.name=nasnet_a_mobile"],
    "pipeline": ["run_dir=run", "data=digits", "data@detection.data=scenes"],
    "classification_evaluate": ["weights=a", "data=digits"],
    "detection_evaluate": ["weights=a", "data=coco"],
    "detection_preview": ["data=scenes"],
}
OTHER_CHOICES = [
    ("classification", ["backbone=genotype", "backbone.name=g.json", "recipe=modern"]),
    ("detection", ["detector=torchvision_c4", "recipe=nasnet_coco"]),
]
COMPOSITIONS = [*((command, []) for command in GIVEN), *OTHER_CHOICES]
FREE = {
    *("seed", "limit_seed", "scenes_seed", "split_seed"),  # any number is a seed
    *("train_limit", "test_limit", "val_limit", "validation", "training"),  # more than all is all, or refused
    *("parameters", "multiply_adds", "activation_bytes", "rejections_in_a_row"),  # limits, not sizes
    *("epochs", "steps", "warmup_steps", "milestones", "children", "patience"),  # as long as is asked for
    *("checkpoint_steps", "log_every_steps", "validate_every_epochs", "validate_every_steps"),
    *("max_attempts", "failures_in_a_row", "cutout"),
}
"""Whole numbers that may be as large as 64 bits hold: nothing is built of their size."""


def composed(command: str, words: list[str]) -> DictConfig:
    conf.register(command)
    with initialize_config_module("conf", version_base="1.3"):
        return compose(command, overrides=[*GIVEN[command], *words])


def numbers(config: DictConfig, prefix: str = ""):
    """(dotted key, int or float, whether a list of them) of each number, set or null, by the dataclasses."""
    kind = OmegaConf.get_type(config)
    if not dataclasses.is_dataclass(kind):
        return
    types = typing.get_type_hints(kind)
    for name in (field.name for field in dataclasses.fields(kind)):
        if OmegaConf.is_interpolation(config, name):
            continue
        kinds = {types[name], *typing.get_args(types[name])}
        kinds |= {each for part in kinds for each in typing.get_args(part)}
        if OmegaConf.is_dict(config.get(name)):
            yield from numbers(config[name], f"{prefix}{name}.")
        elif number := kinds & {int, float}:
            is_list = any(typing.get_origin(each) is list for each in kinds)
            yield f"{prefix}{name}", number.pop(), is_list


def refused(config: DictConfig, key: str, value) -> str:
    """The message for the value, or an empty one."""
    broken = copy.deepcopy(config)
    try:
        OmegaConf.update(broken, key, value)
        to_objects(broken)
    except (ConfigError, ValidationError) as error:
        return str(error)
    return ""


@pytest.mark.parametrize(("command", "words"), COMPOSITIONS)
def test_no_number_is_infinite_undefined_or_more_than_64_bits(command, words):
    config = composed(command, words)
    keys = list(numbers(config))
    assert len(keys) > 3
    for key, number, is_list in keys:
        values = [2**63, -(2**63) - 1, 10**400] if number is int else [math.nan, math.inf, -math.inf, 1e39]
        for value in values:
            message = refused(config, key, [value] * 3 if is_list else value)
            assert message.startswith((f"{key} = ", f"{key}[0] = ")), (key, value, message)


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("trainer.threads", 2**63, "at most 1024, or null"),  # its own, not that of 64 bits
        ("recipe.epochs", -(2**70), "at least 1"),
        ("recipe.epochs", 2**63, f"at most {2**63 - 1}"),
        ("seed", -(2**70), f"at least {-(2**63)}"),
        ("recipe.label_smoothing", 1e39, "in [0, 1)"),
        ("recipe.lr", math.inf, "finite"),
    ],
)
def test_a_number_that_is_too_large_is_told_the_range_of_its_key(key, value, rule):
    config = composed("classification", [])
    assert refused(config, key, value) == f"{key} = {value}, must be {rule}"


@pytest.mark.parametrize(("command", "words"), COMPOSITIONS)
def test_no_number_is_so_large_that_what_it_sizes_cannot_be_built(command, words):
    config = composed(command, words)
    for key, number, is_list in numbers(config):
        if number is int and key.rpartition(".")[2] not in FREE:
            value = 2**40
            message = refused(config, key, [value] * 3 if is_list else value)
            assert key.split("[")[0] in message, (key, message)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("recipe.lr=.inf", "recipe.lr = inf, must be finite"),
        ("recipe.weight_decay=nan", "recipe.weight_decay = nan, must be finite"),
        ("recipe.clip_norm=inf", "recipe.clip_norm = inf, must be finite, or null"),
        ("data.mean=[nan,0.5,0.5]", "data.mean[0] = nan, must be finite"),
        ("data.std=[0.5,0.5,inf]", "data.std[2] = inf, must be finite"),
        ("data.mean=[123.7,116.3,103.5]", "data.mean = [123.7, 116.3, 103.5], must be 3 numbers in 0..1"),
        ("seed=9223372036854775808", "seed = 9223372036854775808, must be at most 9223372036854775807"),
        ("trainer.threads=100000000", "trainer.threads = 100000000, must be at most 1024, or null"),
        (
            "backbone.cells_per_stage=1000000",
            "backbone.cells_per_stage = 1000000, must be at most 100, or null",
        ),
    ],
)
def test_the_message_names_the_key_and_the_rule(word, message):
    key, _, text = word.partition("=")
    config = composed("classification", [])
    value = OmegaConf.create(
        f"value: {text.replace('nan', '.nan').replace('.inf', 'inf').replace('inf', '.inf')}"
    )
    assert refused(config, key, value.value).startswith(message)


def test_the_blocks_of_a_space_are_those_of_a_genotype():
    config = composed("search", [])
    assert refused(config, "space.blocks", 65) == "space.blocks = 65, must be at most 64"
    assert refused(config, "space.blocks", 64) == ""
