"""The images that a tracker gets, with what is annotated and what was found."""

import json

from PIL import Image

from detection.data.annotations import read_split
from detection.data.config import CocoDataConfig
from detection.data.images import open_split
from detection.evaluation import trackers
from detection.evaluation.examples import LOWEST_SCORE, varied
from detection.evaluation.results_file import Result
from detection.evaluation.run import record
from detection.evaluation.scoring import evaluate
from runtime.config import LoggerConfig
from runtime.tracking import build_loggers, finish


def test_wandb_gets_examples_with_boxes_and_curves(coco_folder, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_MODE", "offline")
    images = open_split(CocoDataConfig(root=str(coco_folder), workers=0), "val")
    results = [Result(3, 90, (1, 2, 10, 20), 0.9), Result(3, 1, (1, 2, 10, 20), LOWEST_SCORE / 2)]
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    loggers = build_loggers(LoggerConfig(name="wandb"), run_dir, "detection", {})
    record(run_dir, loggers, images, images.coco, results, evaluate(images.coco, results))
    finish(loggers)
    assert "wandb did not take" not in caplog.text
    media = next((run_dir / "wandb").glob("offline-run-*/files/media"))
    shown = [Image.open(path) for path in (media / "images" / "val").iterdir()]
    assert len(shown) == 2
    assert len({image.size for image in shown}) == 1, "padded, or wandb distorts them"
    groups = [
        json.loads(path.read_text())["box_data"]
        for path in (media / "metadata" / "boxes2D" / "val").iterdir()
    ]
    found = [box for group in groups for box in group if "scores" in box]
    assert [(box["box_caption"], box["scores"]["score"]) for box in found] == [("toothbrush 0.90", 0.9)]
    assert found[0]["position"] == {"minX": 1, "minY": 2, "maxX": 11, "maxY": 22}
    annotated = [box["box_caption"] for group in groups for box in group if "scores" not in box]
    assert sorted(annotated) == ["person", "person", "toothbrush"]


def test_without_wandb_no_image_is_read(scenes, tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(trackers, "decode", read.append)
    loggers = build_loggers(LoggerConfig(name="csv"), tmp_path, "detection", {})
    trackers.log_examples(loggers, read_split(scenes, "val")[0], scenes, [], "val")
    assert read == []


def test_the_examples_are_those_of_the_annotations_alone(scenes):
    coco = read_split(scenes, "val")[0]
    assert varied(coco) == list(range(len(coco)))  # there are no more than are shown
    assert set(varied(coco, 2)) <= set(varied(coco, 3))
