"""The commands as a user types them: the chain, its continuation, sweeps, and what they say to mistakes."""

import csv
import json
import os
import re
import subprocess
import sys
import zipfile

import pytest
import yaml
from commands import run_here
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from backbones import Genotype
from backbones.published import NASNET_A
from backbones.weights import read_safetensors
from detection.data.annotations import read_split
from detection.data.config import ScenesDataConfig
from detection.evaluation.results_file import read_results
from detection.evaluation.scoring import METRICS, evaluate

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}


def command(*words, cwd, check=True):
    """Runs `python -m …` in `cwd`; returns the finished process."""
    done = subprocess.run(
        [sys.executable, "-m", *map(str, words)], cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True
    )
    if check:
        assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """A finished smoke run and what it printed."""
    folder = tmp_path_factory.mktemp("chain")
    done = command("pipeline", "experiment=smoke", "run_dir=run", "logger=tensorboard", cwd=folder)
    return folder / "run", done.stdout


def test_the_chain_writes_every_file_and_prints_the_table(chain):
    run, printed = chain
    genotype = Genotype.load(run / "search" / "genotype.json")
    _, backbone = read_safetensors(run / "classification" / "backbone.safetensors", "backbone")
    _, detector = read_safetensors(run / "detection" / "detector.safetensors", "detector")
    assert backbone["network"]["genotype"] == genotype.to_dict()
    assert detector["network"] == backbone["network"]
    assert [category["id"] for category in detector["categories"]][:2] == [1, 3]  # gaps, as COCO has
    result = json.loads((run / "detection" / "metrics.json").read_text())
    metrics = result["metrics"]
    assert list(metrics) == [name for name in METRICS if name not in result["undefined"]]
    scenes = ScenesDataConfig(**yaml.safe_load((run / "detection" / "config.yaml").read_text())["data"])
    coco = read_split(scenes, "val")[0]
    assert evaluate(coco, read_results(run / "detection" / "predictions.json", coco)).metrics == metrics
    for word in ("search", "classification", "detection", "report.html", "detector.safetensors"):
        assert word in printed
    assert re.search(rf"AR100\W+{100 * metrics['AR100']:.1f} %", printed), printed
    assert "python -m pipeline experiment=smoke run_dir=run" in (run / "report.html").read_text()


def test_started_again_the_chain_skips_finished_stages_and_continues_the_unfinished_one(chain):
    run, _ = chain
    weights = (run / "classification" / "backbone.safetensors").stat().st_mtime_ns
    before = (run / "detection" / "detector.safetensors").read_bytes()
    (run / "detection" / "metrics.json").write_text('{"stage": "detection", ')
    refused = command("pipeline", "experiment=smoke", "run_dir=run", cwd=run.parent, check=False)
    assert (refused.returncode, "Traceback" in refused.stderr) == (1, False)
    assert "run/detection/metrics.json: expected a metrics file in JSON" in refused.stderr
    assert "delete it and start the same command again" in refused.stderr
    for name in ("metrics.json", "detector.safetensors"):
        (run / "detection" / name).unlink()
    again = command("pipeline", "experiment=smoke", "run_dir=run", cwd=run.parent)
    assert "classification: was finished before" in again.stderr
    assert "detection: finished" in again.stderr
    assert "report: " not in again.stderr  # the chain writes one for all stages
    assert (run / "classification" / "backbone.safetensors").stat().st_mtime_ns == weights
    assert (run / "detection" / "detector.safetensors").read_bytes() == before


COCO = {"AP", "AP50", "AP75", "APs", "APm", "AR1", "AR10", "AR100", "ARs", "ARm"}
NAMES = {
    "search": {
        *("best", "child", "duplicates", "entropy", "failed", "mean", "mean_last_100", "rejected"),
        *("reward", "seconds"),
    },
    "classification": {
        *("epoch", "lr", "train/loss", "train/top1", "train/top5", "test/loss", "test/top1", "test/top5"),
        *("parameters", "multiply_adds"),
    },
    "detection": {*(f"val/{name}" for name in COCO), "parameters", "multiply_adds"},
}
"""Of the metrics that each stage of a smoke run logs: it has no large objects, and logs no loss of a step."""


@pytest.mark.parametrize("stage", NAMES)
def test_metrics_have_the_same_names_everywhere(chain, stage):
    with (chain[0] / stage / "metrics.csv").open(newline="") as file:
        columns = {*csv.DictReader(file).fieldnames} - {"step"}
    written = EventAccumulator(str(chain[0] / stage / "tensorboard")).Reload()
    assert {*written.Tags()["scalars"]} == columns == NAMES[stage]


def test_another_configuration_is_refused_with_the_difference(chain):
    run, _ = chain
    refused = run_here(
        "pipeline", "experiment=smoke", "run_dir=run", "detection.recipe.lr=0.5", cwd=run.parent
    )
    assert refused.returncode == 1
    assert "recipe.lr: 0.01 -> 0.5" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_another_genotype_is_another_run_of_the_classifier(chain):
    run, _ = chain
    kept = (run / "search" / "genotype.json").read_text()
    Genotype(NASNET_A.normal, NASNET_A.reduction).save(run / "search" / "genotype.json")
    refused = run_here("pipeline", "experiment=smoke", "run_dir=run", cwd=run.parent)
    (run / "search" / "genotype.json").write_text(kept)
    assert refused.returncode == 1
    assert "backbone.name" in refused.stderr
    assert "(content)" in refused.stderr


def test_a_wrong_value_in_a_sweep_does_not_stop_the_others(tmp_path):
    words = ["search", "-m", "data=digits", "data.train_limit=128", "logger=csv", "budget.children=1"]
    child = ["child.image_size=8", "child.cells_per_stage=1", "child.filters=4", "child.epochs=1"]
    done = run_here(*words, *child, "space.blocks=0,1", "hydra.sweep.dir=sweep", cwd=tmp_path)
    assert done.returncode == 1
    assert "space.blocks = 0, must be at least 1" in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "sweep" / "1" / "genotype.json").exists()


def test_each_stage_starts_from_its_input_file_alone(chain, tmp_path):
    run, _ = chain
    weights = tmp_path / "backbone.safetensors"
    weights.write_bytes((run / "classification" / "backbone.safetensors").read_bytes())
    scored = run_here(
        "classification.evaluate", f"weights={weights}", "data=digits", "data.test_limit=64", cwd=tmp_path
    )
    header = read_safetensors(weights, "backbone")[1]["metrics"]
    assert json.loads(scored.stdout)["metrics"] == header
    detector = run / "detection" / "detector.safetensors"
    data = ["data=scenes", "data.train_scenes=12", "data.val_scenes=6"]
    scored = run_here("detection.evaluate", f"weights={detector}", *data, cwd=tmp_path)
    recorded = json.loads((run / "detection" / "metrics.json").read_text())["metrics"]
    assert json.loads(scored.stdout)["metrics"] == recorded
    predictions = run / "detection" / "predictions.json"
    scored = run_here("detection.evaluate", f"predictions={predictions}", *data, cwd=tmp_path)
    assert json.loads(scored.stdout)["metrics"] == recorded


def test_a_sweep_runs_a_job_per_value_in_hydras_folders(tmp_path):
    done = run_here(
        *("search", "-m", "data=digits", "data.train_limit=128", "logger=csv", "budget.children=2"),
        *("space.blocks=1,2", "child.image_size=8", "child.cells_per_stage=1", "child.filters=4"),
        *("child.epochs=1", "child.batch_size=32", "hydra.sweep.dir=sweep"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    blocks = [len(Genotype.load(tmp_path / "sweep" / job / "genotype.json").normal.blocks) for job in "01"]
    assert blocks == [1, 2]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["search", "data=cifar10", "data.root=/nowhere"], "data.root = /nowhere: no such folder"),
        (
            ["search", "data=mnist"],
            "data=mnist: expected one of cifar10, digits",
        ),
        (
            ["search", "data=digits", "budget.childen=3"],
            "did you mean budget.children?",
        ),
        (
            ["classification", "data=digits", "backbone=nasnet_a_mobile", "backbone.filters=10"],
            "backbone.filters = 10",
        ),
        (["classification", "data=digits", "backbone=genotype", "backbone.name={bad}"], "sep_conv_9x9"),
        (["detection", "backbone.weights={bad}", "data=scenes"], "not a backbone file"),
        (
            ["detection", "data=coco", "data.root={here}", "backbone.name=nasnet_a_mobile"],
            "instances_train2017",
        ),
        (["detection", "data=scenes", "backbone.name=nasnet_a_cifar"], "has the cifar stem"),
        (["pipeline", "experiment=smoke", "detection.data.val_scenes=0"], "detection.data.val_scenes = 0"),
        (["pipeline", "experiment=smoke", "data=cifar10", "data.root=/nowhere"], "data.root = /nowhere"),
        (["pipeline", "experiment=smoke", "detection.data.root=/"], "detection.data.root = / holds other"),
        (
            ["pipeline", "experiment=smoke", "detection.detector.rpn.anchor_sizes=[32]"],
            "detection.detector.rpn.anchor_sizes = [32], expected 5",
        ),
        (
            ["pipeline", "experiment=smoke", "detection.recipe.batch_size=100"],
            "exceeds the 12 training images",
        ),
        (["pipeline", "experiment=smoke", "classification.backbone.stem=cifar"], "detection needs the maps"),
        (
            ["pipeline", "experiment=smoke", "search.child.device=cuda"],
            "search.child.device = 'cuda'",
        ),
        (["search", "data=digits", "child.device=cuda"], "child.device = 'cuda', but there is no CUDA"),
    ],
)
def test_a_mistake_ends_with_one_message_and_leaves_nothing(words, message, tmp_path, monkeypatch):
    bad = tmp_path / "genotype.json"
    genotype = NASNET_A.to_dict()
    genotype["normal"]["blocks"][0]["left_op"] = "sep_conv_9x9"
    bad.write_text(json.dumps(genotype))
    before = sorted(tmp_path.rglob("*"))
    module, *overrides = (word.format(bad=bad, here=tmp_path) for word in words)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    done = run_here(module, *overrides, cwd=tmp_path)
    assert done.returncode == 1
    stderr = done.stderr
    assert message in stderr
    if " = " in message:  # of a value, which begins with its key as it was typed
        assert stderr.splitlines()[-1].startswith(message)
    assert "Traceback" not in stderr
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_the_users_chain_runs_whole_on_imagenet_and_coco_images(real_data, tmp_path):
    imagenet, coco = tmp_path / "imagenet", tmp_path / "coco"
    with zipfile.ZipFile(real_data / "imagenet-sample.zip") as archive:
        archive.extractall(imagenet)
    (imagenet / "train").symlink_to(imagenet / "val")
    coco.symlink_to(real_data / "coco-small")
    command(
        *("pipeline", "experiment=imagenet_to_coco", f"data.root={imagenet}", f"detection.data.root={coco}"),
        *("run_dir=run", "logger=csv", "data.train_limit=128", "data.test_limit=64", "data.workers=2"),
        *("search.budget.children=2", "search.child.training=64", "search.child.validation=32"),
        *("search.child.epochs=1", "search.child.filters=4", "search.child.cells_per_stage=1"),
        *("classification.backbone.cells_per_stage=1", "classification.backbone.filters=8"),
        *("classification.backbone.stem_filters=8", "classification.backbone.image_size=64"),
        *("classification.backbone.batch_norm_momentum=0.5", "classification.recipe.epochs=1"),
        *("classification.recipe.batch_size=32", "detection.data.min_sizes=[160]"),
        *("detection.data.test_min_size=160", "detection.data.max_size=256", "detection.data.val_limit=8"),
        *("detection.recipe.steps=3", "detection.recipe.batch_size=2", "detection.recipe.warmup_steps=1"),
        *("detection.detector.fpn_channels=16", "detection.detector.box_head.width=32"),
        cwd=tmp_path,
    )
    metrics = json.loads((tmp_path / "run" / "detection" / "metrics.json").read_text())
    assert len(metrics["per_class"]) == 80
    _, backbone = read_safetensors(tmp_path / "run" / "classification" / "backbone.safetensors", "backbone")
    assert backbone["num_classes"] == 1000
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
