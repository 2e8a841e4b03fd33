import copy
import re
import subprocess
import sys
from operator import attrgetter
from pathlib import Path

import pytest
import yaml
from commands import run_here
from hydra import compose, initialize_config_module
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException, ValidationError

import conf.compose
from backbones.ranges import ConfigError
from backbones.zoo import ZOO
from classification.config import ImageDataConfig, RecipeConfig
from conf.help import HELPS
from conf.objects import to_objects
from detection.data.config import FolderDataConfig
from runtime.config import LOGGERS, LoggerConfig
from runtime.folder import plain
from search.strategies.config import ControllerConfig, EvolutionConfig, RandomConfig

CONF = Path(conf.__file__).parent
EXPERIMENTS = sorted(
    (path.parent.parent.name, path.stem) for path in conf.EXPERIMENTS.glob("*/experiment/*.yaml")
)


def composed(name: str, *overrides: str):
    return conf.compose.composed(name, "run_dir=run", *overrides)


@pytest.mark.parametrize(("command", "experiment"), EXPERIMENTS)
def test_every_experiment_composes_with_its_command_and_says_how_it_is_typed(command, experiment):
    path = conf.EXPERIMENTS / command / "experiment" / f"{experiment}.yaml"
    first, second = path.read_text().splitlines()[:2]
    assert first == "# @package _global_"
    start, module, *overrides = second.removeprefix("# ").partition("   (")[0].split(" ")[1:]
    typed = command.replace("_", ".")
    assert (start, module, overrides[0]) == ("-m", typed, f"experiment={experiment}")
    config = composed(command, *overrides)
    if module != "pipeline":
        return
    assert config.detection.backbone.weights == "run/classification/backbone.safetensors"
    assert config.classification.backbone.name == "run/search/genotype.json"
    assert config.classification.backbone.stem != "cifar"  # detection would refuse its maps


@pytest.mark.parametrize("command", ["search", "classification", "detection", "pipeline"])
def test_help_lists_the_experiments_of_the_command_alone(command):
    shown = subprocess.check_output(
        [sys.executable, "-m", command, "--help"], cwd=conf.EXPERIMENTS.parents[1], text=True
    )
    (listed,) = re.findall(r"^  experiment: (.*(?:\n    .*)*)", shown, re.MULTILINE)
    assert listed.replace(",", "").split() == [name for home, name in EXPERIMENTS if home == command]


def test_help_names_every_choice_there_is():
    files = {
        group: {path.stem for path in (CONF / group).glob("*.yaml")}
        for group in ("backbone", "data", "recipe")
    }
    listed: dict[str, set[str]] = {}
    for each in HELPS.values():
        for group, names in each.choices.items():
            listed.setdefault(group, set()).update(names)
    for group, names in listed.items():
        known = files.get(group, set()) | {each for each in conf.choices()[group] if "schema" not in each}
        assert names == known, group


@pytest.mark.parametrize("command", HELPS)
def test_help_has_forms_that_compose_and_a_sentence_for_each_key(command, tmp_path):
    given = ["seed=7"] if "seed" in HELPS[command].keys else []
    shown = run_here(command.replace("_", "."), *given, "--help", cwd=tmp_path)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert max(map(len, shown.stdout.splitlines())) <= 120
    keys = re.findall(r"^  ([a-z_.]+)=\S+\n      \S", shown.stdout, re.MULTILINE)
    assert keys == list(HELPS[command].keys)
    assert all(f"\n  {word}\n" in shown.stdout for word in given)
    assert list(tmp_path.iterdir()) == []
    for form in HELPS[command].forms:
        if not form.startswith("-m"):
            conf.compose.composed(command, *form.split())


@pytest.mark.parametrize("command", ["classification", "detection", "pipeline"])
def test_hydra_lists_the_experiments_of_the_command_alone(command):
    own = [name for home, name in EXPERIMENTS if home == command]
    conf.register(command)
    with (
        initialize_config_module("conf", version_base="1.3"),
        pytest.raises(MissingConfigException) as error,
    ):
        compose(command, overrides=["experiment=no_such"])
    assert sorted(error.value.options or []) == own


STAGES = "search|classification|detection|pipeline"
README, LISTED = ((CONF.parent / name).read_text() for name in ("README.md", "docs/commands.md"))
COMMANDS = re.findall(rf"^python -m ({STAGES}) (.+?)(?: {{2,}}#.*)?$", README, re.MULTILINE)
COMMANDS += re.findall(rf"`python -m ({STAGES}) ([^`]+)`", LISTED)


def test_every_command_of_the_documents_composes_and_its_values_arrive():
    assert len(COMMANDS) > 20
    for module, words in COMMANDS:
        overrides = [word.split(",")[0] for word in words.split() if word not in ("-m", "…")]
        config = composed(module, *overrides)
        for key, value in (word.split("=") for word in overrides):
            if "." in key:  # a key of its own, no group's choice
                assert attrgetter(key)(config) == yaml.safe_load(value), words


def test_the_probe_of_the_protocol_trains_the_children_of_its_table():
    text = (CONF.parent / "docs" / "protocol.md").read_text().replace("\\\n", " ")
    (words,) = re.findall(r"python -m search\.probe (.*)", text)
    probe = composed("search_probe", *[word for word in words.split() if not word.startswith("run_dir=")])
    search = composed("search", "experiment=table", "data.root=CIFAR10")
    assert (probe.child, probe.data, probe.space) == (search.child, search.data, search.space)
    for row in re.findall(r"`(strategy=[^`]*)` \|", text):
        assert composed("search", "experiment=table", "data.root=CIFAR10", *row.split()).child == probe.child


def test_a_stage_of_the_pipeline_is_configured_as_the_stage_alone():
    chain = composed("pipeline", "data=digits")
    alone = composed("search", "data=digits", "logger=csv")
    assert plain(chain.search) == plain(alone) | {"run_dir": "run/search"}
    detection = composed(
        "detection", "backbone.weights=run/classification/backbone.safetensors", "logger=csv"
    )
    assert plain(chain.detection) == plain(detection) | {"run_dir": "run/detection"}


def test_data_at_the_top_serves_search_and_classification():
    config = composed("pipeline", "data=cifar10", "data.root=/images", "data@detection.data=scenes")
    assert config.search.data == config.classification.data == config.data
    assert config.data.root == "/images"
    assert config.detection.data.name == "scenes"


@pytest.mark.parametrize("name", ZOO)
def test_every_network_of_the_zoo_is_a_choice(name):
    assert composed("classification", f"backbone={name}").backbone.spec() == ZOO[name]


FILES = sorted(path.relative_to(CONF) for path in CONF.glob("*/*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=str)
def test_the_values_of_every_file_arrive(file):
    values = yaml.safe_load((CONF / file).read_text())
    del values["defaults"]
    root = (
        ["detection", "backbone.name=nasnet_a_mobile"] if file.stem == "nasnet_coco" else ["classification"]
    )
    group = plain(composed(*root, f"{file.parent}={file.stem}"))[str(file.parent)]
    assert {key: group[key] for key in values} == values


@pytest.mark.parametrize(
    ("override", "root", "expected"),
    [
        ("recipe=nasnet_cifar", "classification", RecipeConfig()),
        *((f"logger={name}", "classification", LoggerConfig(name=name)) for name in LOGGERS),
        ("strategy=controller", "search", ControllerConfig()),
        ("strategy=evolution", "search", EvolutionConfig()),
        ("strategy=random", "search", RandomConfig()),
    ],
)
def test_a_choice_without_a_file_is_its_dataclass(override, root, expected):
    assert getattr(composed(root, override), override.partition("=")[0]) == expected


@pytest.mark.parametrize(
    ("root", "override", "message"),
    [
        ("search", "budget.childen=3", "Key 'childen' not in 'BudgetConfig'"),
        ("search", "strategy=ppo", "Could not find 'strategy/ppo'"),
        ("search", "budget.children=many", "could not be converted to Integer"),
        ("search", "window=0", "window = 0, must be at least 1"),
        ("classification", "recipe.batch_size=0", "batch_size = 0, must be at least 1"),
        ("classification", "data.name=mnist", "data.name = 'mnist', expected one of"),
        ("detection", "backbone.weights=null", "give one, a backbone.safetensors or a network's name"),
        ("pipeline", "logger.name=mlflow", "logger.name = 'mlflow', expected one of csv, wandb"),
    ],
)
def test_a_wrong_key_choice_type_or_range_is_named(root, override, message):
    with pytest.raises((HydraException, OmegaConfBaseException, ValueError)) as error:
        composed(root, override)
    chain = [str(error.value), str(error.value.__cause__)]
    assert any(message in text for text in chain), chain


def leaves(config: DictConfig, prefix: str = ""):
    """Dotted keys of all values that stand where they are named."""
    for name in map(str, config):
        if OmegaConf.is_interpolation(config, name) or OmegaConf.is_missing(config, name):
            continue
        if isinstance(value := config[name], DictConfig):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


@pytest.mark.parametrize("command", ["search", "classification", "detection", "pipeline"])
def test_a_value_out_of_range_is_refused_under_the_key_that_was_typed(command):
    given = ["backbone.weights=w.safetensors"] if command == "detection" else []
    conf.register(command)
    with initialize_config_module("conf", version_base="1.3"):
        config = compose(command, overrides=["run_dir=run", "data.root=.", *given])
    refused = {}
    for key in leaves(config):
        broken = copy.deepcopy(config)
        try:
            OmegaConf.update(broken, key, -12345)
            to_objects(broken)
        except ConfigError as error:
            refused[key] = str(error)
        except ValidationError:  # of another type than the key's: OmegaConf names the whole key
            continue
    assert len(refused) > 20
    for key, message in refused.items():
        assert key in message.split(), message


def test_two_stages_that_refuse_the_same_key_are_told_apart():
    for key in ("classification.recipe.lr", "detection.recipe.lr", "data.workers", "detection.data.workers"):
        with pytest.raises(ConfigError, match=f"^{re.escape(key)} = -1"):
            composed("pipeline", f"{key}=-1")


@pytest.mark.parametrize(
    ("command", "word", "answer"),
    [
        (
            "classification",
            "recipe.lr_batch_size=64",
            "recipe.lr_batch_size is called recipe.reference_batch_size now",
        ),
        (
            "detection",
            "trainer.accelerator=gpu",
            "trainer.accelerator is called trainer.device now (gpu is called cuda)",
        ),
        (
            "pipeline",
            "+detection.trainer.accelerator=cpu",
            "detection.trainer.accelerator is called detection.trainer.device now (gpu is called cuda)",
        ),
    ],
)
def test_a_key_by_its_old_name_is_answered_with_the_new_one(command, word, answer):
    done = subprocess.run(
        [sys.executable, "-m", command, word], cwd=CONF.parent, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr.strip()) == (1, answer)


def test_a_folder_is_each_commands_own_kind_of_data():
    for command in ("search", "classification"):
        assert composed(command, "data=folder", "data.root=DIR").data.name == "folder"
    given = ["data=folder", "data.root=DIR", "backbone.name=nasnet_a_mobile"]
    assert type(composed("detection", *given).data) is FolderDataConfig
    chain = composed("pipeline", "data=folder", "data@detection.data=labelled_folder")
    assert (type(chain.data), type(chain.detection.data)) == (ImageDataConfig, FolderDataConfig)
