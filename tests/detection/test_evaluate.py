"""Detections in COCO's format and what `python -m detection.evaluate` makes of them."""

import json
import multiprocessing
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_detectors import small_detector

from detection.data.annotations import read_coco, read_split
from detection.data.coco_file import CategoryEntry
from detection.data.config import CocoDataConfig
from detection.data.images import open_split
from detection.evaluation.config import EvaluateConfig
from detection.evaluation.curves import read_curves
from detection.evaluation.results_file import Result, read_results, to_results, write_results
from detection.evaluation.run import predict_all, run
from detection.evaluation.scoring import evaluate
from detection.formats import Prediction
from runtime.config import LoggerConfig


def test_boxes_become_x_y_width_height_with_the_category_id():
    prediction: Prediction = {
        "boxes": torch.tensor([[1.0, 2.0, 4.5, 10.25]]),
        "scores": torch.tensor([0.125]),
        "labels": torch.tensor([2]),
    }
    assert to_results(7, prediction, [1, 3, 90]) == [Result(7, 90, (1.0, 2.0, 3.5, 8.25), 0.125)]


def test_a_score_that_is_not_a_number_is_refused():
    prediction: Prediction = {
        "boxes": torch.zeros(1, 4),
        "scores": torch.tensor([float("nan")]),
        "labels": torch.tensor([0]),
    }
    with pytest.raises(ValueError, match="image 7: a predicted box or score is not finite"):
        to_results(7, prediction, [1])


RESULT = '{"image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "nested too deeply to be read"),
        ('{"images": ' * 100_000, "nested too deeply to be read"),
        ('{"a": 1}', r"expected a list of detections with .* found an object with the keys \['a'\]"),
        (f"{RESULT}\n{RESULT}", r"found several values one after the other \(JSON Lines\?\)"),
        ('[{"image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 4]}]', r"score is missing.*detections\[0\]"),
        (f"[{RESULT}, {RESULT.replace('2', 'NaN')}]", r"detections\[1\]: bbox = \[1, NaN, 3, 4\]"),
        (f"[{RESULT.replace('7', '1' * 5000)}]", r"image_id must be a whole number: 1 .*= Infinity\)"),
        (f"[{RESULT.replace('7', '1' * 5000)}, NaN]", r"image_id must be a whole number: 1 .*= Infinity\)"),
        (f"[{RESULT.replace('0.5', '-Infinity')}]", r"detections\[0\]: score = -Infinity"),
        (f"[{RESULT.replace('7', '8')}]", r"image_id is not in .*7, 3: 1 \(detections\[0\]: image_id = 8\)"),
        (f"[{RESULT.replace('7', '7.5')}]", r"image_id must be a whole number: 1 .*image_id = 7\.5\)"),
        ("[" + RESULT.replace("7", '"7"') + "]", r'image_id must be a whole number: 1 .*image_id = "7"\)'),
        (f"[{RESULT.replace('1', '2', 1)}]", r"category_id is not in .* 1, 90: 1 .*category_id = 2\)"),
    ],
)
def test_a_bad_predictions_file_is_refused_with_its_name(coco_file, tmp_path, content, message):
    path = tmp_path / "predictions.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as refusal:
        read_results(path, read_coco(coco_file())[0])
    assert str(refusal.value).startswith(f"{path}: ")


def test_every_kind_of_fault_of_a_results_file_is_told_at_once(coco_file, tmp_path):
    wrong = [RESULT.replace("7", '"7"'), RESULT.replace("0.5", "NaN"), RESULT.replace("7", "8"), RESULT]
    path = tmp_path / "predictions.json"
    path.write_text(f"[{', '.join(wrong)}]")
    with pytest.raises(ValueError, match="image_id") as refusal:
        read_results(path, read_coco(coco_file())[0])
    lines = str(refusal.value).splitlines()
    assert [line.removeprefix(f"{path}: detections: ").partition(" ")[0] for line in lines] == [
        *("image_id", "score", "image_id")
    ]
    assert [line[line.index("1 (") :].partition(":")[0] for line in lines] == [
        "1 (detections[0]",
        "1 (detections[1]",
        "1 (detections[2]",
    ]


def test_ids_are_read_as_pycocotools_reads_them_and_odd_boxes_are_counted(coco_file, tmp_path, caplog):
    path = tmp_path / "predictions.json"
    boxes = ("[1, 2, -3, 4]", "[1, 2, 3, -4]", "[1, 2, 0, 4]")
    odd = [RESULT.replace("7", "7.0").replace("[1, 2, 3, 4]", box) for box in boxes]
    path.write_text(f"[{', '.join(odd)}]")
    assert [result.image_id for result in read_results(path, read_coco(coco_file())[0])] == [7, 7, 7]
    negative, empty = (record.getMessage() for record in caplog.records)
    assert "negative width or height" in negative
    assert "2 (detections[0]: bbox = [1.0, 2.0, -3.0, 4.0], detections[1]" in negative
    assert "no area: 1 (detections[2]: bbox = [1.0, 2.0, 0.0, 4.0])" in empty


@pytest.mark.parametrize("evaluator", ["pycocotools", "fast"])
def test_predictions_are_scored_without_model_and_images(coco_file, tmp_path, capsys, evaluator):
    annotations = coco_file()
    results = [Result(3, 90, (1, 2, 10, 20), 0.9), Result(7, 1, (35, 5, 10.5, 8), 0.8)]
    write_results(tmp_path / "predictions.json", results)
    config = EvaluateConfig(
        predictions=str(tmp_path / "predictions.json"),
        data=CocoDataConfig(root=str(tmp_path), val_annotations=annotations.name),
        evaluator=evaluator,
        output=str(tmp_path / "out"),
    )
    content = run(config)
    assert content["metrics"]["AP"] == pytest.approx(1.0)
    assert content["evaluator"] == evaluator
    assert (content["annotations"], content["images"]) == ("annotations.json", 2)
    assert json.loads(capsys.readouterr().out) == content
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == content
    curves = read_curves(tmp_path / "out" / "curves.json")
    assert set(curves.per_class) == {"person", "toothbrush"}
    assert set(curves.mean["0.50"]) == {1.0}


@pytest.fixture
def detector():
    """Of the two categories of `coco_file`."""
    return small_detector([CategoryEntry(1, "person"), CategoryEntry(90, "toothbrush")], side=32)


def test_a_set_without_annotations_gives_predictions_and_no_ap(
    coco_folder, detector, tmp_path, capsys, caplog
):
    path = coco_folder / "annotations/instances_val2017.json"
    content = json.loads(path.read_text())
    del content["annotations"]
    path.write_text(json.dumps(content))
    detector.save(tmp_path / "detector.safetensors", {})
    weights, data = str(tmp_path / "detector.safetensors"), CocoDataConfig(root=str(coco_folder), workers=0)
    with pytest.raises(ValueError, match=r"no annotations, so predictions.json is all .* set output=DIR"):
        run(EvaluateConfig(weights=weights, data=data, device="cpu"))

    printed = run(EvaluateConfig(weights=weights, data=data, device="cpu", output=str(tmp_path / "out")))
    assert printed["metrics"] == printed["per_class"] == {}
    assert json.loads(capsys.readouterr().out) == printed
    assert "has no annotations: no metrics, predictions only" in caplog.text
    images = open_split(data, "val")
    predicted = predict_all(detector, detector.prepare(images), 0)
    assert read_results(tmp_path / "out" / "predictions.json", images.coco) == predicted != []
    assert not (tmp_path / "out" / "curves.json").exists()


def test_what_was_written_is_scored_again_without_the_model(coco_folder, detector, tmp_path):
    detector.save(tmp_path / "detector.safetensors", {})
    data = CocoDataConfig(root=str(coco_folder), workers=0)
    weights = EvaluateConfig(
        weights=str(tmp_path / "detector.safetensors"),
        data=data,
        device="cpu",
        output=str(tmp_path / "out"),
        logger=LoggerConfig(name="csv"),
    )
    content = run(weights)
    predictions = EvaluateConfig(predictions=str(tmp_path / "out" / "predictions.json"), data=data)
    assert run(predictions) == content
    figures = (tmp_path / "out" / "metrics.csv").read_text().splitlines()
    assert figures[0].split(",")[1:] == [f"val/{name}" for name in content["metrics"]]


class Forgetful(torch.utils.data.Dataset):
    """The first image in place of the last."""

    def __init__(self, images):
        self.images, self.coco = images, images.coco

    def __len__(self):
        return len(self.images)

    def __getitem__(self, sample):
        return self.images[(sample[0], 0 if sample[1] == len(self) - 1 else sample[1])]


def test_every_image_must_be_looked_at(scenes, tmp_path):
    coco = read_split(scenes, "val")[0]
    entries = [CategoryEntry(*pair) for pair in zip(coco.category_ids, coco.category_names, strict=True)]
    detector = small_detector(entries)
    images = detector.prepare(open_split(scenes, "val"))
    with pytest.raises(RuntimeError, match=r"5 of 6 images .* were looked at, 6 times in all"):
        predict_all(detector, Forgetful(images), 0)


def as_rank(rank: int, port: int, weights: str, scenes, folder: Path) -> None:
    """What torchrun does for one of two processes."""
    torch.set_num_threads(1)  # a forked process must not use the pool of threads that it lost
    own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "test"}
    os.environ.update(own | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})
    content = run(EvaluateConfig(weights=weights, data=scenes, device="cpu", output=str(folder)))
    os._exit(0 if bool(content) == (rank == 0) else 1)  # without pytest's own farewells


def test_two_processes_find_what_one_finds(scenes, tmp_path):
    coco = read_split(scenes, "val")[0]
    entries = [CategoryEntry(*pair) for pair in zip(coco.category_ids, coco.category_names, strict=True)]
    weights = str(tmp_path / "detector.safetensors")
    small_detector(entries).save(weights, {})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    processes = [
        fork.Process(target=as_rank, args=(rank, port, weights, scenes, tmp_path / "two")) for rank in (0, 1)
    ]
    for process in processes:
        process.start()
    run(EvaluateConfig(weights=weights, data=scenes, device="cpu", output=str(tmp_path / "one")))
    for process in processes:
        process.join(timeout=120)
        if process.is_alive():
            process.kill()
    assert [process.exitcode for process in processes] == [0, 0]
    for name in ("predictions.json", "metrics.json", "curves.json"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    results = read_results(tmp_path / "one" / "predictions.json", coco)
    assert len({result.image_id for result in results}) == len(coco)


@pytest.mark.slow
def test_torchrun_evaluates_with_two_processes(scenes, tmp_path):
    coco = read_split(scenes, "val")[0]
    entries = [CategoryEntry(*pair) for pair in zip(coco.category_ids, coco.category_names, strict=True)]
    small_detector(entries).save(tmp_path / "detector.safetensors", {})
    keys = ("root", "train_scenes", "val_scenes", "min_sizes", "test_min_size")
    data = ["data=scenes", *(f"data.{key}={getattr(scenes, key)}" for key in keys)]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m"]
    words = [*torchrun, "detection.evaluate", f"weights={tmp_path / 'detector.safetensors'}", *data]
    done = subprocess.run(
        [*words, "device=cpu", "threads=1"], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    detector = small_detector(entries)
    images = detector.prepare(open_split(scenes, "val"))
    assert content["metrics"] == evaluate(coco, predict_all(detector, images, 0)).metrics


def test_of_torchruns_processes_the_first_scores_predictions(coco_file, tmp_path, monkeypatch, capsys):
    write_results(tmp_path / "predictions.json", [Result(3, 90, (1, 2, 10, 20), 0.9)])
    config = EvaluateConfig(
        predictions=str(tmp_path / "predictions.json"),
        data=CocoDataConfig(root=str(tmp_path), val_annotations=coco_file().name),
    )
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert run(config) == {}
    assert capsys.readouterr().out == ""
    monkeypatch.setenv("RANK", "0")
    assert run(config)["images"] == 2


def test_no_threads_at_all_are_refused():
    with pytest.raises(ValueError, match="threads = 0, must be at least 1"):
        EvaluateConfig(predictions="a", data=CocoDataConfig(), threads=0)


def test_an_unknown_evaluator_is_refused():
    with pytest.raises(ValueError, match="evaluator = 'slow', expected one of pycocotools, fast"):
        EvaluateConfig(predictions="a", data=CocoDataConfig(), evaluator="slow")


def test_a_logger_needs_a_folder():
    with pytest.raises(ValueError, match="logger = csv, but there is no output folder; set output=DIR"):
        EvaluateConfig(predictions="a", data=CocoDataConfig(), logger=LoggerConfig(name="csv"))


def test_weights_and_predictions_exclude_each_other():
    with pytest.raises(ValueError, match="give one of them"):
        EvaluateConfig(data=CocoDataConfig())
    with pytest.raises(ValueError, match="give one of them"):
        EvaluateConfig(weights="a", predictions="b", data=CocoDataConfig())
