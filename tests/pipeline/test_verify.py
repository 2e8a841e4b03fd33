"""Verification of finished runs, which the real writers made: any change of any file is found and named."""

import random
import re
import shutil
import sqlite3
import subprocess
import sys

import pytest
from commands import run_here

from backbones.genotype import Genotype
from pipeline.verify import Verification, main
from runtime.digests import FILE, files_of, read_digests, record
from search.ledger.reader import LEDGER

FLIPS = 2
"""Positions that are tried in each file."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A chain, run by its own command."""
    folder = tmp_path_factory.mktemp("chain")
    words = ("pipeline", "experiment=smoke", "run_dir=run")
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.fixture
def chain(finished, tmp_path):
    """A copy elsewhere: the chain's configurations name the original's place."""
    return shutil.copytree(finished, tmp_path / "copy")


def findings(folder, level=None, data=False):
    found = list(Verification(folder, data=data).findings())
    return [each for each in found if level in (None, each.level)]


def flip(path, place, how):
    content = bytearray(path.read_bytes())
    content[place] ^= how
    path.write_bytes(content)


def test_an_untouched_chain_is_linked_from_the_detector_to_the_images(chain, capsys):
    assert main([str(chain)]) == 0
    printed = capsys.readouterr().out
    detector, backbone, genotype, split = (
        printed.index(f"ok       {line}")
        for line in (
            "detection/detector.safetensors: from classification/backbone.safetensors (SHA-256 ",
            "classification/backbone.safetensors: from search/genotype.json (SHA-256 ",
            "search/genotype.json: child ",
            "search/search.sqlite: split of 115 + 13 images",
        )
    )
    assert detector < backbone < genotype < split
    assert "the images here give the same" in printed
    names = [name for run in (".", "search", "classification", "detection") for name in files_of(chain / run)]
    assert printed.splitlines()[-1] == f"verified: {len(names)} files"
    assert {LEDGER, "metrics.json", "checkpoints/last.ckpt", "config.yaml", "inputs.json"} < {*names}
    assert "search: not verified, since they may change: log.txt" in printed


@pytest.mark.parametrize("flips", [FLIPS, pytest.param(50, marks=pytest.mark.slow)])
def test_one_flipped_byte_in_any_file_is_found_and_named(chain, flips):
    generator = random.Random(0)
    tried = 0
    for run in (chain, *(chain / name for name in ("search", "classification", "detection"))):
        for name in (*files_of(run), FILE):
            path = run / name
            before = path.read_bytes()
            for place in (generator.randrange(len(before)) for _ in range(flips)):
                flip(path, place, generator.randrange(1, 256))
                wrong = {each.where for each in findings(chain, "DIFFERS")}
                path.write_bytes(before)
                own = str(path.relative_to(chain))
                assert own in wrong, (own, place)
                # The stage that was made from it is named beside it, and nothing else.
                assert len(wrong) <= 1 + (name in ("genotype.json", "backbone.safetensors")), wrong
                tried += 1
    assert tried == flips * 36
    assert findings(chain, "DIFFERS") == findings(chain, "MISSING") == findings(chain, "unknown") == []


def test_the_usual_tool_reads_the_digests(chain):
    done = subprocess.run(["sha256sum", "--check", "--strict", FILE], cwd=chain / "search", check=False)
    assert done.returncode == 0
    flip(chain / "search" / LEDGER, 5000, 1)
    done = subprocess.run(
        ["sha256sum", "--check", FILE], cwd=chain / "search", capture_output=True, text=True, check=False
    )
    assert f"{LEDGER}: FAILED" in done.stdout


@pytest.mark.parametrize("name", ["search/genotype.json", "detection/predictions.json", f"search/{FILE}"])
def test_a_missing_file_is_named(chain, name, capsys):
    (chain / name).unlink()
    assert main([str(chain), "--no-data"]) == 1
    assert re.search(rf"^(MISSING|unknown)  {re.escape(name)}: ", capsys.readouterr().out, re.MULTILINE)


def test_a_stage_of_another_run_with_digests_of_its_own_does_not_fit(chain, tmp_path):
    """As when a folder was replaced by that of another run."""
    smaller = tmp_path / "other"
    done = run_here("search", "data=digits", *SEARCH, f"run_dir={smaller}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    shutil.rmtree(chain / "search")
    shutil.copytree(smaller, chain / "search")
    wrong = findings(chain, "DIFFERS")
    assert [each.where for each in wrong] == ["classification/backbone.safetensors"]
    assert wrong[0].text.startswith("from search/genotype.json, whose SHA-256 is ")


SEARCH = (
    *("data.train_limit=128", "seed=5", "space.blocks=1", "budget.children=2", "window=1", "logger=csv"),
    *("child.image_size=8", "child.cells_per_stage=1", "child.filters=8", "child.epochs=1"),
    *("child.batch_size=32", "strategy=random"),
)


def test_a_ledger_that_no_longer_has_the_child_is_named(chain):
    """With digests that fit, as of one who made them anew: the links say it."""
    with sqlite3.connect(chain / "search" / LEDGER) as database:
        database.execute("UPDATE children SET reward = reward + 0.125")
    record(chain / "search")
    assert [(each.level, each.where) for each in findings(chain) if each.level not in ("ok", "note")] == [
        ("DIFFERS", "search/genotype.json")
    ]
    with sqlite3.connect(chain / "search" / LEDGER) as database:
        database.execute("UPDATE facts SET value = replace(value, '115', '116') WHERE name = 'split'")
    record(chain / "search")
    assert ("DIFFERS", f"search/{LEDGER}") in [each[:2] for each in findings(chain, data=True)]


def test_a_single_stage_is_followed_to_the_runs_that_it_came_from(chain, finished, tmp_path, monkeypatch):
    monkeypatch.chdir(finished.parent)  # where the chain was started
    alone = shutil.copytree(chain / "detection", tmp_path / "alone" / "detector")
    found = findings(alone)
    assert [each for each in found if each.level not in ("ok", "note")] == []
    assert "run/search/genotype.json" in [each.where for each in found]
    monkeypatch.chdir(tmp_path)
    (unknown,) = findings(alone, "unknown")
    assert unknown.text.startswith("from run/classification/backbone.safetensors, which is not here")


def test_a_run_that_goes_on_has_no_digests_until_it_ends(tmp_path, monkeypatch):
    words = ("search", "data=digits", *SEARCH, "run_dir=run")
    assert run_here(*words, cwd=tmp_path).returncode == 0
    first = read_digests(tmp_path / "run")
    assert run_here(*words, cwd=tmp_path).returncode == 0  # finished: nothing is written
    assert read_digests(tmp_path / "run") == first
    seen = []
    monkeypatch.setattr("search.run.Search.run", lambda *_: seen.append((tmp_path / "run" / FILE).exists()))
    assert run_here(*words, "budget.children=3", cwd=tmp_path).returncode == 0
    assert seen == [False]
    second = read_digests(tmp_path / "run")
    assert second.keys() == first.keys()
    assert second["metrics.json"] != first["metrics.json"] or second["config.yaml"] != first["config.yaml"]
    assert findings(tmp_path / "run", "DIFFERS") == []


def test_a_genotype_that_a_rerank_chose_is_that_of_a_child(tmp_path, monkeypatch):
    assert run_here("search", "data=digits", *SEARCH, "run_dir=run", cwd=tmp_path).returncode == 0
    done = run_here(
        "search.rerank", "dir=run", "top=1", "seeds=1", "run_dir=again", "child.epochs=1", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    monkeypatch.chdir(tmp_path)
    found = findings(tmp_path / "again")
    assert {each.level for each in found} == {"ok", "note"}
    child = Genotype.load("again/genotype.json").origin["child"]
    assert [each.text.split(",")[0] for each in found if each.where == "genotype.json"] == [
        f"child {child} of run/{LEDGER}"
    ]
    genotype = Genotype.load("again/genotype.json")
    Genotype(genotype.normal, genotype.reduction, {}).save("again/genotype.json")
    record(tmp_path / "again")
    assert [each.text for each in findings(tmp_path / "again", "unknown")] == ["names no child of a search"]


def test_what_an_older_version_finished_can_be_recorded(chain, capsys):
    for path in chain.rglob(FILE):
        path.unlink()
    assert main([str(chain), "--no-data"]) == 1
    assert capsys.readouterr().out.count("SHA256SUMS: is not there") == 4
    assert main([str(chain), "--no-data", "--record"]) == 0
    assert capsys.readouterr().out.count("recorded ") >= 4


def test_a_folder_without_a_run_is_refused(tmp_path, capsys):
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"{tmp_path}: no run, expected config.yaml in it\n"


def test_an_evaluation_is_verified_with_the_weights_that_it_scored(chain, tmp_path, capsys):
    (tmp_path / "scores").mkdir()
    (tmp_path / "scores" / "mine.txt").write_text("not of the evaluation")
    words = ["weights=copy/classification/backbone.safetensors", "data=digits", "data.test_limit=40"]
    for _ in range(2):  # a repeated one has digests of its own
        done = run_here("classification.evaluate", *words, "output=scores", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    recorded = read_digests(tmp_path / "scores")
    assert {"metrics.json", "evaluation.yaml", "inputs.json", "mistakes.json"} < recorded.keys()
    assert "mine.txt" not in recorded
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert main(["scores"]) == 0
        assert f"metrics.json: from {words[0].removeprefix('weights=')} (SHA-256" in capsys.readouterr().out
        for name in recorded:
            before = (path := tmp_path / "scores" / name).read_bytes()
            flip(path, len(before) // 2, 1)
            assert name in {each.where for each in findings(tmp_path / "scores", "DIFFERS")}
            path.write_bytes(before)
        flip(chain / "classification" / "backbone.safetensors", -1, 1)
        assert "metrics.json" in {each.where for each in findings(tmp_path / "scores", "DIFFERS")}


def test_a_run_is_followed_to_the_one_that_it_grew_from_and_that_to_its_first_weights(chain, tmp_path):
    words = ["classification", "data=digits", "data.train_limit=64", "data.test_limit=40", "run_dir=fine"]
    words += ["init=copy/classification/backbone.safetensors", "recipe.batch_size=32", "logger=csv"]
    for epochs in (1, 2):
        done = run_here(*words, f"recipe.epochs={epochs}", "trainer.threads=1", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        found = findings(tmp_path / "fine-2-epochs")
        assert [each for each in found if each.level not in ("ok", "note")] == []
        links = {(each.where, each.text.split(" (SHA")[0]) for each in found if "from " in each.text}
        fine, classifier = tmp_path / "fine", "copy/classification/backbone.safetensors"
        assert {
            ("backbone.safetensors", f"from {fine}/checkpoints/last.ckpt"),
            ("backbone.safetensors", f"from {classifier}"),
            (f"{fine}/backbone.safetensors", f"from {classifier}"),
        } < links
        flip(fine / "checkpoints" / "last.ckpt", -1, 1)
        (wrong, *_) = findings(tmp_path / "fine-2-epochs", "DIFFERS")
        assert (wrong.where, wrong.text[: wrong.text.index(",")]) == (
            "backbone.safetensors",
            f"from {fine}/checkpoints/last.ckpt",
        )
