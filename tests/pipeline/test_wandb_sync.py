"""What arrives at a server of runs that were tracked offline: sent from copies, the originals deleted."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from wandb_server import KEY, serving
from written_run import GENOTYPE

from runtime.digests import digest, record
from runtime.wandb_runs import WandbRun


@pytest.fixture
def server():
    with serving() as server:
        yield server
        assert server.faults == []


def at_home(home):
    """The environment of a user who is not logged in, with a home of their own: wandb keeps files there."""
    home.mkdir()
    known = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    return known | {"HOME": str(home), "NETRC": f"{home}/netrc", "OMP_NUM_THREADS": "1"}


@pytest.fixture
def environment(tmp_path):
    return at_home(tmp_path / "home")


def start(words, environment, cwd):
    return subprocess.run(
        [sys.executable, *words], env=environment, cwd=cwd, capture_output=True, text=True, timeout=300
    )


def sync(*folders, server, environment, cwd):
    on_line = environment | {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}
    return start(["-m", "pipeline.wandb_sync", *folders], on_line, cwd)


TRACK = """
import logging, sys
from pathlib import Path
from runtime.config import LoggerConfig
from runtime.tracking import build_loggers, finish, log_artifact, log_summary
for stage, product, values in (
    ("search", "genotype.json", {}),
    ("classification", "backbone.safetensors", {"backbone": {"name": "first/search/genotype.json"}}),
):
    folder = Path("first", stage)
    loggers = build_loggers(LoggerConfig(name="wandb", group="first"), folder, stage, values)
    for step in range(3):
        loggers[1].log_metrics({"figure": step / 2}, step)
    log_artifact(loggers, folder / product, product.split(".")[0])
    log_summary(loggers, {"best": 0.75, "worst": float("nan")})
    finish(loggers)
"""


@pytest.fixture(scope="module")
def tracked(tmp_path_factory):
    """Two stages that were tracked offline, moved away; wandb's own copies of their files are gone."""
    place = tmp_path_factory.mktemp("tracked")
    first = place / "first"
    for stage in ("search", "classification"):
        (first / stage).mkdir(parents=True)
    GENOTYPE.save(first / "search" / "genotype.json")
    (first / "classification" / "backbone.safetensors").write_bytes(bytes(range(256)) * 40)
    done = start(["-c", TRACK], at_home(place / "home"), place)
    assert done.returncode == 0, done.stderr
    for stage in ("search", "classification"):
        record(first / stage)
    shutil.rmtree(place / "home")
    return first.rename(place / "moved")


@pytest.fixture
def copied(tracked, tmp_path):
    return shutil.copytree(tracked, tmp_path / "elsewhere" / "copy", symlinks=True)


def arrived(server, copy):
    """Checks that all of both stages arrived once."""
    search, classifier = (WandbRun.load(copy / stage).id for stage in ("search", "classification"))
    files = {"genotype": copy / "search" / "genotype.json"}
    files["backbone"] = copy / "classification" / "backbone.safetensors"
    assert [(each.name, each.type, each.index, each.run) for each in server.versions] == [
        ("genotype-first", "genotype", 0, search),
        ("backbone-first", "backbone", 0, classifier),
    ]
    for version in server.versions:
        path = files[version.type]
        assert version.state == "COMMITTED"
        assert version.files == {path.name: path.read_bytes()}
        assert version.metadata["sha256"] == digest(path)
        assert {*version.aliases} == {"latest", f"sha256-{digest(path)[:12]}"}
    assert server.versions[1].metadata["inputs"] == {"backbone.name": digest(files["genotype"])}
    assert {run.id: run.uses for run in server.runs.values()} == {
        search: [],
        classifier: ["genotype-first:v0"],
    }
    for run in server.runs.values():
        stage = run.asked["jobType"]
        assert (run.asked["displayName"], run.asked["groupName"]) == (f"first · {stage}", "first")
        assert [row["figure"] for row in run.history.values() if "figure" in row] == [0, 0.5, 1]
        assert run.summary["best"] == 0.75
        assert "worst" not in run.summary
        assert "version" in run.config["celltransfer"]


def test_a_copy_arrives_whole_with_its_original_deleted(copied, server, environment, tmp_path):
    done = sync("elsewhere", server=server, environment=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "2 runs sent"
    assert (
        f"  uses     genotype-first:sha256-{digest(copied / 'search' / 'genotype.json')[:12]}" in done.stdout
    )
    arrived(server, copied)


@pytest.mark.slow
def test_what_arrived_is_not_sent_again(copied, server, environment, tmp_path):
    for _ in range(2):
        done = sync(copied, server=server, environment=environment, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        arrived(server, copied)


@pytest.mark.slow
def test_a_stage_whose_input_is_not_there_and_a_changed_file_are_told(copied, server, environment, tmp_path):
    done = sync(copied / "classification", server=server, environment=environment, cwd=tmp_path)
    assert done.returncode == 1
    assert "FAILED   genotype-first:sha256-" in done.stdout
    assert "send the run that wrote it first" in done.stdout
    with (copied / "search" / "genotype.json").open("a") as file:
        file.write(" ")
    done = sync(copied / "search", server=server, environment=environment, cwd=tmp_path)
    assert done.returncode == 1
    assert "genotype.json: is not the file that the run wrote, so it is not sent" in done.stdout
    # `wandb sync` names them, and has no files for them.
    assert {version.state for version in server.versions} == {"PENDING"}


def test_without_a_login_or_a_run_it_says_so(copied, environment, tmp_path):
    done = start(["-m", "pipeline.wandb_sync", copied], environment, tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "nobody is logged in to wandb" in done.stderr
    done = start(["-m", "pipeline.wandb_sync", "home"], environment, tmp_path)
    assert done.returncode == 1
    assert done.stderr == "home: no run that was tracked by wandb, expected wandb_run.json in it\n"


@pytest.mark.slow
@pytest.mark.parametrize("on_line", [False, True])
def test_a_chain_is_linked_from_genotype_to_detector(server, environment, tmp_path, on_line):
    words = ["-m", "pipeline", "experiment=smoke", "logger=wandb", "run_dir=first/demo"]
    login = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}
    done = start(words, environment | login if on_line else environment, tmp_path)
    assert done.returncode == 0, done.stderr
    copy = tmp_path / "first" / "demo"
    if on_line:
        assert done.stderr.count(f"wandb: {server.url}/me/celltransfer/runs/") == 3
    else:
        copy = shutil.copytree(copy, tmp_path / "copy", symlinks=True)
        shutil.rmtree(tmp_path / "first")
        shutil.rmtree(tmp_path / "home")
        (tmp_path / "home").mkdir()
        done = sync("copy", server=server, environment=environment, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
    runs = {run.asked["jobType"]: run for run in server.runs.values()}
    assert {stage: run.uses for stage, run in runs.items()} == {
        "search": [],
        "classification": ["genotype-demo:v0"],
        "detection": ["backbone-demo:v0"],
    }
    products = {
        each.name: each for each in server.versions if each.type in ("genotype", "backbone", "detector")
    }
    assert {*products} == {"genotype-demo", "backbone-demo", "detector-demo"}
    for version in products.values():
        ((name, content),) = version.files.items()
        stage = {"genotype": "search", "backbone": "classification", "detector": "detection"}[version.type]
        assert content == (copy / stage / name).read_bytes()
    for stage, run in runs.items():
        metrics = json.loads((copy / stage / "metrics.json").read_text())["metrics"]
        assert {key: run.summary[key] for key in metrics} == pytest.approx(metrics)
    assert {"val/AP", "val/AP50"} <= runs["detection"].metrics
    assert any(name.startswith("media/images/val/examples") for name in runs["detection"].files)
