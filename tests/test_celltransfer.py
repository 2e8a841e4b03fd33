"""The console command, and what is said of modules that are no commands."""

import ast
import importlib.metadata
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

import benchmarks
import celltransfer
from celltransfer import COMMANDS, install_command, refuse_module

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGES = ("backbones", "runtime", "classification", "search", "detection", "pipeline", "conf", "benchmarks")
CONSOLE = Path(sys.executable).parent / "celltransfer"
TINY = """
    backbone=genotype backbone.name=GENOTYPE backbone.cells_per_stage=1 backbone.filters=8
    backbone.stem=cifar backbone.stem_filters=8 backbone.image_size=8
    recipe.epochs=1 recipe.batch_size=4 recipe.auxiliary_weight=0
    trainer.device=cpu trainer.threads=1 logger=csv
"""
HOSTILE = "import pathlib\npathlib.Path({marker!r}).touch()\n"


def modules() -> list[str]:
    paths = [path for package in PACKAGES for path in (REPOSITORY / package).rglob("*.py")]
    names = [".".join(path.relative_to(REPOSITORY).with_suffix("").parts) for path in paths]
    return sorted(name for name in names if not name.endswith("__init__"))


def is_command(module: str) -> bool:
    tree = ast.parse((REPOSITORY / f"{module.replace('.', '/')}.py").read_text())
    return any(isinstance(node, ast.If) and "__main__" in ast.dump(node.test) for node in tree.body)


def test_the_commands_are_the_modules_that_can_be_run():
    assert {name.removesuffix(".__main__") for name in modules() if is_command(name)} == {
        *COMMANDS,
        *benchmarks.COMMANDS,
    }


@pytest.mark.parametrize("module", modules())
def test_every_other_module_says_that_it_is_no_command(module, monkeypatch):
    """As Python has it while it imports the package of `python -m module`."""
    monkeypatch.setattr(sys, "argv", ["-m"])
    monkeypatch.setattr(sys, "orig_argv", ["python", "-u", "-m", module, "--help"])
    package = module.split(".")[0]
    for other in PACKAGES:
        if other != package:
            refuse_module(other)
    commands = benchmarks.COMMANDS if package == "benchmarks" else tuple(COMMANDS)
    if is_command(module):
        refuse_module(package, commands)
        return
    with pytest.raises(SystemExit) as end:
        refuse_module(package, commands)
    assert str(end.value).startswith(f"python -m {module} is not a command; ")


@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("detection.train", "use python -m detection ("),
        ("classification.train", "use python -m classification ("),
        ("search.run", "use python -m search ("),
        ("detection.engines.torchvision", "use python -m detection ("),
        ("backbones.zoo", "use python -m backbones ("),
        ("pipeline.chain", "use python -m pipeline ("),
        ("runtime.trainer", celltransfer.LISTED),
        ("conf.app", celltransfer.LISTED),
        ("benchmarks.peers", "the commands of benchmarks are benchmarks.backbones, "),
    ],
)
def test_a_module_that_is_no_command_ends_with_one_sentence_that_names_it(module, command):
    done = subprocess.run([sys.executable, "-m", module], cwd=REPOSITORY, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"python -m {module} is not a command; {command}")
    assert done.stderr.count("\n") == 1


def run(
    *words: str | Path, cwd: Path = REPOSITORY, console: Sequence[str | Path] = (CONSOLE,)
) -> subprocess.CompletedProcess[str]:
    """The installed console command."""
    if not CONSOLE.exists():
        pytest.skip(f"needs the installed package: no {CONSOLE}")
    return subprocess.run([*console, *map(str, words)], cwd=cwd, capture_output=True, text=True, timeout=300)


def test_alone_it_lists_the_commands_a_line_each():
    done = run()
    lines = [line.split(maxsplit=1) for line in done.stdout.splitlines() if line.startswith("  ")]
    assert dict(lines) == {**COMMANDS, "wandb-sync": "the same as pipeline.wandb_sync"}
    assert run("--help").stdout == done.stdout


def test_it_says_its_version_and_the_nearest_command():
    assert re.fullmatch(r"celltransfer \d+\.\d+\.\d+\n", run("--version").stdout)
    near, far, module = run("pipelin.report", "a"), run("foo"), run("detection.train")
    assert (near.returncode, far.returncode) == (1, 1)
    assert "'pipelin.report' is not a command; did you mean pipeline.report" in near.stderr
    assert "'detection.train' is not a command; did you mean detection or" in module.stderr
    assert far.stderr == f"celltransfer: 'foo' is not a command; {celltransfer.LISTED}\n"


@pytest.mark.parametrize("words", [["-um"], ["-X", "dev", "-Rm"], ["-W", "m", "-m"]])
def test_pythons_own_options_hide_no_module(words, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["-m"])
    monkeypatch.setattr(sys, "orig_argv", ["python", *words, "detection.train"])
    with pytest.raises(SystemExit, match=r"python -m detection\.train is not a command"):
        refuse_module("detection")


def test_a_command_s_help_says_how_it_was_typed():
    assert run("detection.predict", "--help").stdout.startswith("usage: celltransfer detection.predict ")


@pytest.fixture
def folder(tmp_path):
    """A user's folder with names of ours in it, each of which leaves a mark when it is imported."""
    marker = HOSTILE.format(marker=str(tmp_path / "imported"))
    for name in ("search", "runtime", "pipeline"):
        (tmp_path / f"{name}.py").write_text(marker)
    for name in ("conf", "detection", "classification", "backbones"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(marker)
    for split, count in (("train", 4), ("test", 2)):
        for label, shade in (("dark", 40), ("light", 200)):
            (tmp_path / "data" / split / label).mkdir(parents=True)
            for number in range(count):
                picture = Image.new("RGB", (8, 8), (shade, shade, 9 * number))
                picture.save(tmp_path / "data" / split / label / f"{number}.png")
    return tmp_path


def train(folder: Path, *words: str, console: Sequence[str | Path] = (CONSOLE,)) -> None:
    cells = folder / "cells.json"
    block = {"left": 0, "right": 1, "left_op": "conv_1x1", "right_op": "identity", "combine": "add"}
    cell = {"blocks": [block], "concat": [2]}
    cells.write_text(json.dumps({"format": 1, "normal": cell, "reduction": cell, "origin": {}}))
    tiny = TINY.replace("GENOTYPE", str(cells)).split()
    data = ["data=imagefolder", "data.root=data", "data.workers=1"]
    done = run("classification", *words, *data, *tiny, cwd=folder, console=console)
    assert done.returncode == 0, done.stderr
    assert not (folder / "imported").exists()


@pytest.mark.slow
def test_the_users_folder_hides_no_module_from_ranks_and_loader_workers(folder):
    train(folder, "trainer.devices=2", "run_dir=run")
    assert (folder / "run" / "metrics.json").is_file()
    recorded = (folder / "run" / "command.txt").read_text()
    assert recorded.startswith("celltransfer classification trainer.devices=2 run_dir=run ")


@pytest.mark.slow
def test_the_users_folder_hides_no_module_from_loader_workers_that_are_not_forked(folder):
    spawning = (
        "import multiprocessing, celltransfer as c; multiprocessing.set_start_method('spawn'); c.main()"
    )
    train(folder, "run_dir=run", console=[sys.executable, "-P", "-c", spawning])
    assert (folder / "run" / "metrics.json").is_file()


def test_the_users_folder_hides_no_module_from_a_sweep(folder):
    train(folder, "-m", "seed=0,1", "hydra.sweep.dir=sweep")
    assert [(folder / "sweep" / job / "metrics.json").is_file() for job in ("0", "1")] == [True, True]


def test_a_target_in_the_users_folder_is_found(folder):
    (folder / "my_rewards.py").write_text(
        "from search.messages import Result\n"
        "def score(genotype, task):\n"
        "    return Result(task.proposal, reward=0.5)\n"
    )
    words = "search data=digits evaluator={_target_:my_rewards.score} budget.children=2 window=1 run_dir=run"
    done = run(*words.split(), "logger=csv", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert not (folder / "imported").exists()
    assert json.loads((folder / "run" / "metrics.json").read_text())["metrics"]["best_reward"] == 0.5


def test_an_extra_is_installed_from_the_clone_or_by_its_packages_from_any_folder(monkeypatch, tmp_path):
    pip = f"{sys.executable} -m pip install"
    monkeypatch.setattr(celltransfer, "ROOT", tmp_path / "my clone")
    (tmp_path / "my clone").mkdir()
    (tmp_path / "my clone" / "pyproject.toml").touch()
    assert install_command("timm") == f"{pip} -e '{tmp_path}/my clone[timm]'"
    assert install_command("detectron2") == f"make -C '{tmp_path}/my clone' detectron2"
    monkeypatch.setattr(celltransfer, "ROOT", tmp_path)  # a wheel has no pyproject.toml beside it
    needs = ["torch>=2", 'timm<1.1,>=1.0.20; extra == "timm"', "scikit-learn>=1.5 ; extra == 'demo'"]
    monkeypatch.setattr("importlib.metadata.requires", lambda name: needs)
    assert install_command("timm") == f"{pip} 'timm<1.1,>=1.0.20'"
    assert install_command("demo") == f"{pip} 'scikit-learn>=1.5'"
    assert "detectron2.git" in install_command("detectron2")
    monkeypatch.undo()
    monkeypatch.setattr(celltransfer, "ROOT", tmp_path)

    def nothing_known(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.requires", nothing_known)
    assert install_command("timm") == "its packages are the extra 'timm' of celltransfer"


def test_without_the_console_command_the_path_stays_as_it_is(monkeypatch):
    monkeypatch.delenv(celltransfer.CONSOLE, raising=False)
    before = list(sys.path)
    celltransfer.user_folder_last()
    assert sys.path == before


def test_with_it_the_users_folder_comes_last_behind_the_clone(monkeypatch, tmp_path):
    monkeypatch.setenv(celltransfer.CONSOLE, "1")
    monkeypatch.setattr(sys, "path", [str(tmp_path), "/elsewhere"])
    monkeypatch.chdir(tmp_path)
    celltransfer.user_folder_last()
    assert sys.path == ["/elsewhere", str(celltransfer.ROOT), str(tmp_path)]


CLOSED = [
    "-m search.status --help",
    "-m search --help",
    "-m pipeline.report --help",
    "-u -m detection.predict --help",
    "-m classification --cfg job data=digits",
    "-m backbones list",
    "celltransfer.py --help",
    "celltransfer.py search.status --help",
]


def _buffered() -> dict[str, str]:
    """The environment without the variable that leaves nothing to be flushed at the end."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


@pytest.mark.parametrize("command", CLOSED)
def test_a_command_ends_quietly_when_nobody_reads_its_output(command, tmp_path):
    """As of `… | head -0`: the pipe has no reader from the start."""
    read, write = os.pipe()
    os.close(read)
    words = [f"{REPOSITORY}/{word}" if word == "celltransfer.py" else word for word in command.split()]
    variables = _buffered() | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, *words], stdout=write, stderr=subprocess.PIPE, cwd=tmp_path, env=variables, text=True
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_output_that_is_cut_off_ends_the_command(tmp_path):
    """More than a pipe holds, and an error that the command would report."""
    program = f"""
import sys
sys.path.insert(0, {str(REPOSITORY)!r})
import celltransfer
celltransfer.end_with_reader()
try:
    while True:
        print("line")
except OSError:
    sys.exit("told")
finally:
    print("cleaned up", file=sys.stderr)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as started:
        assert started.stdout.readline() == "line\n"
        started.stdout.close()
        assert started.stderr.read() == "cleaned up\n"
        assert started.wait(timeout=20) == 0


def test_a_log_to_an_output_without_a_reader_is_flushed_quietly():
    """At its end logging flushes the handlers that are left, as Hydra's, whichever was collected by then."""
    program = f"""
import sys
sys.path.insert(0, {str(REPOSITORY)!r})
import celltransfer
celltransfer.end_with_reader()
import logging
kept = logging.StreamHandler(sys.stdout)
print("line")
"""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, env=_buffered(), text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("alias", celltransfer.ALIASES)
def test_an_alias_is_the_command_that_it_names(alias):
    code = f"import celltransfer, sys; sys.argv = ['celltransfer', {alias!r}, '--help']; celltransfer.main()"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: celltransfer {celltransfer.ALIASES[alias]}")
