"""What is registered is not yet chosen: without an extra everything else works, and choosing it names it."""

import importlib.util
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from backbones.formats import NEEDS, SUFFIXES, check_export
from celltransfer import install_command
from conf.compose import composed
from runtime.config import check_extras

REPOSITORY = Path(__file__).resolve().parent.parent.parent
EXTRAS = {
    "demo": ["sklearn"],
    "tensorboard": ["tensorboard"],
    "timm": ["timm"],
    "ray": ["ray"],
    "supervision": ["supervision"],
    "export": ["onnx", "onnxscript", "onnxruntime", "openvino"],
    "deploy": ["nncf"],
    "video": ["av"],
    "detectron2": ["detectron2", "fvcore", "iopath", "yacs", "tabulate", "cloudpickle", "termcolor"],
}
EVERYTHING = [module for modules in EXTRAS.values() for module in modules]
# Every command's --help, and every choice of every group with every root configuration that has the group.
WITHOUT = """
import contextlib, io, runpy, sys
for name in sys.argv[1].split(","):
    sys.modules[name] = None
import celltransfer, conf.compose
from hydra.core.config_store import ConfigStore
for command in celltransfer.COMMANDS:
    sys.argv = [command, "--help"]
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        runpy.run_module(command, run_name="__main__", alter_sys=True)
    assert len(text.getvalue()) > 200, command
roots = {
    "search": ("data", "strategy", "executor", "logger"),
    "classification": ("data", "backbone", "recipe", "trainer", "logger"),
    "detection": ("data", "detector", "recipe", "trainer", "logger"),
    "classification_evaluate": ("data", "logger"),
    "detection_evaluate": ("data", "logger"),
    "detection_preview": ("data", "detector", "recipe", "trainer", "logger"),
    "pipeline": ("data", "logger"),
}
given = {
    "detection": ["backbone.name=nasnet_a_mobile"],
    "classification_evaluate": ["weights=a", "output=b"],
    "detection_evaluate": ["weights=a", "output=b"],
}
count = 0
for root, groups in roots.items():
    conf.register(root)
    for group in groups:
        files = [path.stem for path in conf.EXPERIMENTS.parent.glob(f"{group}/*.yaml")]
        nodes = [name.removesuffix(".yaml") for name in ConfigStore.instance().list(group)]
        for choice in {*files, *nodes} - {"schema", "images_schema"}:
            boxes = choice in ("coco", "labelled_folder", "scenes", "detectron2_1x", "nasnet_coco")
            if group in ("data", "recipe") and choice != "folder" and boxes != root.startswith("detection"):
                continue
            words = [f"{group}={choice}", *given.get(root, ())]
            words += ["backbone.name=cells.json"] * (choice == "genotype")
            conf.compose.composed(root, *(() if "_" in root else ("run_dir=run",)), *words)
            count += 1
for path in conf.EXPERIMENTS.glob("*/experiment/*.yaml"):
    words = ["backbone.name=nasnet_a_mobile"] if path.parts[-3] == "detection" else []
    conf.compose.composed(path.parts[-3], f"experiment={path.stem}", "run_dir=run", *words)
    count += 1
print(count)
"""


@pytest.mark.parametrize(
    "hidden",
    [
        pytest.param(EVERYTHING, id="all"),  # which is quick to show; that no extra needs another one is slow
        *(pytest.param(modules, id=extra, marks=pytest.mark.slow) for extra, modules in EXTRAS.items()),
    ],
)
def test_without_extras_every_command_helps_and_every_choice_composes(hidden):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, ",".join(hidden)], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 60


@pytest.mark.parametrize(
    ("extra", "root", "words", "message"),
    [
        ("tensorboard", "search", ["logger=tensorboard"], "logger.name = tensorboard needs tensorboard"),
        ("tensorboard", "pipeline", ["logger=tensorboard"], "logger.name = tensorboard needs tensorboard"),
        ("demo", "classification", ["data=digits"], "data.name = digits needs scikit-learn"),
        ("demo", "pipeline", ["data=digits"], "search.data.name = digits needs scikit-learn"),
        ("ray", "search", ["executor=ray"], "executor.name = ray needs ray"),
        (
            "timm",
            "classification",
            ["backbone.name=timm/resnet18", "backbone.cells_per_stage=null"],
            "backbone.name = timm/resnet18 needs timm",
        ),
        ("timm", "detection", ["backbone.name=timm/resnet18"], "backbone.name = timm/resnet18 needs timm"),
        (
            "detectron2",
            "detection",
            ["detector=detectron2_c4", "backbone.name=nasnet_a_mobile"],
            "detector.name = detectron2_c4 needs detectron2",
        ),
        (
            "demo",
            "detection",
            ["data=scenes", "data.root=/nowhere", "backbone.name=nasnet_a_mobile"],
            "data.name = scenes needs scikit-learn",
        ),
    ],
)
def test_a_choice_without_its_extra_is_refused_with_the_command(extra, root, words, message, monkeypatch):
    config = composed(root, "run_dir=run", *words)
    check_extras(config)
    for module in EXTRAS[extra]:
        monkeypatch.setitem(sys.modules, module, None)
    others = {name: modules for name, modules in EXTRAS.items() if name != extra}
    with pytest.raises(ModuleNotFoundError) as error:
        check_extras(config)
    assert str(error.value) == f"{message}, which is not installed: {install_command(extra)}"
    monkeypatch.undo()
    for modules in others.values():
        for module in modules:
            monkeypatch.setitem(sys.modules, module, None)
    check_extras(config)


def test_a_choice_that_needs_nothing_passes_without_any_extra(monkeypatch):
    for module in EVERYTHING:
        monkeypatch.setitem(sys.modules, module, None)
    assert not any(map(importlib.util.find_spec, EVERYTHING))
    check_extras(composed("classification", "run_dir=run", "logger=wandb"))
    check_extras(composed("detection", "run_dir=run", "data.root=a", "backbone.name=nasnet_a_mobile"))


def test_the_extras_here_are_those_of_the_distribution():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert set(EXTRAS) == set(project["optional-dependencies"]) - {"test", "fuzz"}


def test_an_export_without_its_extra_is_refused_with_the_command(monkeypatch, tmp_path):
    for format, modules in NEEDS.items():
        for module in modules:
            monkeypatch.setitem(sys.modules, module, None)
            with pytest.raises(ModuleNotFoundError) as error:
                check_export(tmp_path / f"net{SUFFIXES[format]}", format)
            monkeypatch.undo()
            message = f"format {format} needs {module}, which is not installed"
            assert str(error.value) == f"{message}: {install_command('export')}"


def test_what_a_run_does_not_take_is_not_asked_for(monkeypatch, tmp_path):
    words = ["data=digits", "evaluator={_target_:my.rewards}", "run_dir=run"]
    own, finished = (
        composed("search", *words),
        composed("classification", "data=digits", f"run_dir={tmp_path}"),
    )
    monkeypatch.setitem(sys.modules, "sklearn", None)
    check_extras(own)
    with pytest.raises(ModuleNotFoundError):
        check_extras(finished)
    (tmp_path / "metrics.json").write_text("{}")
    check_extras(finished)
