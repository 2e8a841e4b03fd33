"""Detections as supervision's."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_detectors import small_detector

from detection.data.coco_file import CategoryEntry
from detection.detector import Detection

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "detection.md"


@pytest.fixture(scope="module")
def detector():
    return small_detector([CategoryEntry(3, "cat"), CategoryEntry(90, "dog")])


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 140, 3), np.uint8)).save(path)
    return path


def test_boxes_scores_classes_and_names_arrive(detector, photo):
    supervision = pytest.importorskip("supervision")
    (found,) = detector(photo)
    detections = found.to_supervision()
    assert isinstance(detections, supervision.Detections)
    assert len(detections) == len(found["scores"]) > 3
    for theirs, ours in (("xyxy", "boxes"), ("confidence", "scores"), ("class_id", "labels")):
        assert np.array_equal(getattr(detections, theirs), found[ours].numpy())
    assert detections["class_name"].tolist() == found["names"]
    assert {*found["names"]} == {"cat", "dog"}
    few = detections[detections.confidence > detections.confidence[3]]
    assert few["class_name"].tolist() == found["names"][:3]


def test_nothing_found_is_no_detections(detector, photo):
    supervision = pytest.importorskip("supervision")
    (found,) = detector(photo, threshold=1.0)
    detections = found.to_supervision()
    assert len(detections) == 0
    assert len(supervision.Detections.merge([detections, detector(photo)[0].to_supervision()])) > 3


@pytest.mark.filterwarnings("ignore:OpenCV")
def test_the_lines_in_the_document_run(detector, photo, monkeypatch):
    pytest.importorskip("supervision")
    monkeypatch.chdir(photo.parent)
    detector.save("detector.safetensors", {})
    (lines,) = re.findall(r"```python\n(import supervision\n.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert lines.count("threshold=0.5") == 2
    scores = detector("photo.jpg")[0]["scores"]
    names: dict = {}
    exec(lines.replace("0.5", str(float(scores[2:4].mean()))), names)
    assert len(names["detections"]) == 3
    changed = np.any(np.asarray(names["drawn"]) != np.asarray(names["photo"]), axis=2)
    for top, right, bottom in names["detections"].xyxy[:, 1:].astype(int):
        assert changed[top : bottom - 1, right - 1].all()  # the box's own edge: the label is to the left
    assert len(names["tiled"]) > 0


def test_without_supervision_the_message_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    found = Detection(boxes=torch.zeros(0, 4), scores=torch.zeros(0), labels=torch.zeros(0).long(), names=[])
    with pytest.raises(
        ModuleNotFoundError, match=r"needs supervision, which is not installed.*\[supervision\]"
    ):
        found.to_supervision()
