"""Commands that need no tensors import nothing that has them; --help of the others does not, either."""

import subprocess
import sys
from pathlib import Path

import pytest
from annotated_folder import annotated_folder
from PIL import Image
from written_run import write_run

from celltransfer import COMMANDS
from runtime.digests import record

REPOSITORY = Path(__file__).resolve().parent.parent
HYDRA = (
    *("search", "classification", "detection", "pipeline"),
    *("search.simulate", "classification.evaluate", "detection.evaluate", "detection.preview"),
)
RUN = """
import runpy, sys
name, *words = sys.argv[1:]
sys.argv[1:] = words
try:
    runpy.run_module(name, run_name="__main__", alter_sys=True)
finally:
    print("heavy:", *{"torch", "torchvision", "lightning", "wandb"} & set(sys.modules), file=sys.stderr)
"""

STOP_AT_TENSORS = """
import builtins, sys
real = builtins.__import__
def watched(name, *rest, **more):
    if name.split(".")[0] in ("torch", "lightning"):
        sys.exit("then " + name)
    return real(name, *rest, **more)
builtins.__import__ = watched
"""


def imported(*words: str | Path, code: int = 0) -> list[str]:
    """The heavy packages that are imported when a command has ended."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, *map(str, words)], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == code, done.stderr
    return done.stderr.splitlines()[-1].split()[1:]


def test_the_measurement_sees_what_is_imported():
    assert imported("backbones", "list") == ["torch"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_imports_no_tensors(command):
    assert imported(command, "--help") == []


@pytest.mark.parametrize("command", HYDRA)
def test_showing_a_configuration_imports_no_tensors(command):
    assert imported(command, "--cfg", "job", *(["weights=a"] if "evaluate" in command else [])) == []


def test_looking_at_annotations_imports_no_tensors(tmp_path):
    annotations = annotated_folder(tmp_path)()
    assert imported("detection.check_data", annotations, tmp_path / "images", "--decode") == []
    assert imported("detection.check_data", tmp_path) == []
    split = ("detection.split", annotations, "--minival", "1", "--output", tmp_path / "split")
    assert imported(*split) == []


def test_checking_class_folders_imports_no_tensors(tmp_path):
    for folder in ("train/dark", "train/light", "val/dark", "val/light"):
        (tmp_path / folder).mkdir(parents=True)
        Image.new("RGB", (8, 8), (ord(folder[0]), len(folder), 0)).save(tmp_path / folder / "a.png")
    assert imported("classification.check_data", tmp_path) == []


def test_importing_labels_imports_no_tensors(tmp_path):
    annotated_folder(tmp_path)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (tmp_path / "classes.txt").write_text("thing\n")
    words = ("detection.import_labels", "--from", "yolo", tmp_path, "--output", tmp_path / "o.json")
    assert imported(*words) == []


def test_writing_a_report_imports_no_tensors(tmp_path):
    run_dir = write_run(tmp_path)
    assert imported("pipeline.report", run_dir) == []
    assert (run_dir / "report.html").is_file()


def test_verifying_and_examining_import_no_tensors(tmp_path):
    run_dir = write_run(tmp_path)
    for stage in ("search", "classification", "detection"):
        record(run_dir / stage)
    assert imported("pipeline.verify", run_dir, "--no-data", code=1) == []  # the chain's own are unknown
    assert imported("pipeline.doctor", tmp_path / "runs") == []


def test_looking_at_a_search_imports_no_tensors(tmp_path):
    search = write_run(tmp_path) / "search"
    assert imported("search.status", search, "--csv", tmp_path / "children.csv") == []
    assert imported("search.status", search) == []
    assert imported("search.report", search, "--output", tmp_path / "page.html") == []
    assert (tmp_path / "page.html").is_file()


def test_a_refused_configuration_imports_no_tensors(tmp_path):
    words = ("classification", "data=digits", "recipe.batch_size=0", f"run_dir={tmp_path / 'run'}")
    assert imported(*words, code=1) == []
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["search", "classification", "detection", "pipeline"])
def test_the_first_line_names_the_folder_before_anything_heavy_is_imported(command, tmp_path):
    words = ["data=scenes", "backbone.name=nasnet_a_mobile"] if command == "detection" else ["data=digits"]
    done = subprocess.run(
        [sys.executable, "-c", STOP_AT_TENSORS + RUN, command, *words, f"run_dir={tmp_path / 'run'}"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    first, second, *_ = done.stderr.splitlines()
    assert first == f"{command}: {tmp_path / 'run'}"
    assert second == "heavy:"
