"""The doctor on this machine, and on poorer ones that are made for it."""

import importlib.metadata
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

import celltransfer
from pipeline import doctor, torch_probe

ROOT = Path(celltransfer.__file__).parent


@pytest.fixture
def working_torch(monkeypatch):
    """What the probe said once, which takes seconds each time."""
    found = torch_probe.found()
    monkeypatch.setattr(doctor, "probe", lambda: found)


@pytest.fixture
def lines(tmp_path, working_torch, monkeypatch, capsys):
    """What the doctor prints in `tmp_path`, as (level, topic, text), and its exit code."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        code = doctor.main(words)
        printed = capsys.readouterr().out.splitlines()[:-1]
        return [(line[:5].strip(), line[7:19].strip(), line[21:]) for line in printed], code

    return run


def test_a_machine_that_runs_our_tests_is_ready(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, printed = doctor.main([]), capsys.readouterr().out
    assert (code, printed.splitlines()[-1]) == (0, "ready"), printed
    for package in ("torch", "torchvision", "lightning", "wandb"):
        assert f"{package} {importlib.metadata.version(package)}" in printed
    assert f"python        {sys.version.split()[0]}" in printed
    assert re.search(r"ok     device        (cpu|cuda)", printed)
    assert len(printed.splitlines()) <= 24
    assert os.listdir(tmp_path) == []


def test_the_level_names_what_is_wrong_with_folders(tmp_path, lines):
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "data" / "train").mkdir(parents=True)
    found, code = lines("file", "--data", "data", "empty", "absent")
    assert code == 1
    faults = [(topic, text) for level, topic, text in found if level == "FAULT"]
    assert faults == [
        ("runs", "file is not a folder; choose another folder: run_dir=DIR"),
        ("", "empty: the folder is empty"),
        ("", "absent: no such file or directory"),
    ]
    assert ("ok", "data", "data: is there") in found
    assert not any("--data DIR" in text for _, _, text in found)


def test_data_folders_of_earlier_runs_are_looked_for(tmp_path, lines):
    runs = tmp_path / "runs"
    for run, config in {
        "search/a": {"data": {"root": str(tmp_path)}},
        "pipeline/b": {"data": {"root": None}, "detection": {"data": {"root": str(tmp_path / "gone")}}},
    }.items():
        (runs / run).mkdir(parents=True)
        (runs / run / "config.yaml").write_text(yaml.safe_dump(config))
    (runs / "search" / "config.yaml").write_text("a: [")
    found, code = lines()
    assert code == 0
    told = sorted((level, text) for level, _, text in found if "from earlier runs" in text)
    assert told == [
        ("note", f"{tmp_path / 'gone'}: no such file or directory (from earlier runs)"),
        ("ok", f"{tmp_path}: is there (from earlier runs)"),
    ]


def test_without_data_the_option_that_looks_at_them_is_named(lines):
    (text,) = (text for _, topic, text in lines()[0] if topic == "data")
    assert text.startswith("no folder given: --data DIR looks at yours")


def test_little_room_is_told(lines, monkeypatch):
    usage = doctor.shutil._ntuple_diskusage
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda place: usage(2**33, 2**33 - 2**20, 2**20))
    found, code = lines()
    assert code == 1
    assert [text for level, _, text in found if level == "FAULT"] == [
        "runs can be written, 1 MiB free: a run needs 0.5 GiB; run_dir=DIR on another disk"
    ]


@pytest.mark.parametrize(
    ("environment", "level", "words"),
    [
        ({}, "note", "offline: nobody is logged in"),
        ({"WANDB_API_KEY": "a" * 40}, "ok", "on-line: logged in at api.wandb.ai (WANDB_API_KEY)"),
        ({"WANDB_API_KEY": "a" * 40, "WANDB_MODE": "offline"}, "note", "offline by WANDB_MODE; logged in"),
        ({"NETRC": "netrc", "WANDB_BASE_URL": "http://box:8080"}, "ok", "on-line: logged in at box:8080"),
    ],
)
def test_wandb_is_on_line_where_somebody_is_logged_in(
    tmp_path, lines, monkeypatch, environment, level, words
):
    (tmp_path / "netrc").write_text(f"machine box:8080\n  login user\n  password {'b' * 40}\n")
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name, value in ({"HOME": str(tmp_path), "NETRC": ""} | environment).items():
        monkeypatch.setenv(name, value)
    found, _ = lines()
    ((got, text),) = [(got, text) for got, topic, text in found if topic == "wandb"]
    assert got == level
    assert words in text
    assert "aaaa" not in text
    assert "bbbb" not in text


def site_of(folder, *packages):
    """A folder for sys.path with links to what this machine has of these packages."""
    folder.mkdir()
    for package in packages:
        for file in importlib.metadata.files(package):
            top = Path(file.parts[0])
            place = folder / top
            if not str(top).startswith("..") and not place.exists():
                place.symlink_to(Path(file.locate()).parents[len(file.parts) - 1] / top)
    return folder


def test_without_packages_extras_home_and_right_to_write_it_says_what_is_missing(tmp_path):
    site = site_of(tmp_path / "site", "msgspec", "PyYAML", "packaging")
    code = (
        f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(site)!r}]; "
        "from pipeline.doctor import main; sys.exit(main(['/proc/runs']))"
    )
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code],
        cwd="/proc",
        env={"HOME": "", "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
    )
    assert time.monotonic() - start < 30
    assert done.stderr == ""
    assert done.returncode == 1
    for expected in (
        "FAULT  packages      torch is not installed: ",
        "FAULT  runs          /proc/runs cannot be written",
        "without timm (timm is not installed): ",
        "without ray (ray is not installed): ",
        "wandb         not installed",
    ):
        assert expected in done.stdout
    assert celltransfer.install_command("timm").split(" -m ")[1] in done.stdout


def test_pytorch_that_hangs_or_crashes_is_a_fault(tmp_path, monkeypatch):
    monkeypatch.setattr(torch_probe, "SECONDS", 0.01)
    found = list(doctor._device())
    assert [line.level for line in found] == ["FAULT"]
    assert "PyTorch gave no answer within" in found[0].text
