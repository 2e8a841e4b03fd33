"""A detector in the report: curves, its boxes beside the annotated ones."""

import json
import re

import pytest
import torch
from small_detectors import small_detector
from written_run import CLASSES, Page, read, write_config, write_data

from detection.data.coco_file import CategoryEntry
from detection.evaluation.config import EvaluateConfig
from detection.evaluation.curves import Curves, write_curves
from detection.evaluation.run import run as evaluate
from pipeline.report import write_report
from runtime.folder import plain


def test_detections_lie_beside_the_ground_truth(run_dir):
    page = read(run_dir)
    titles = [box["title"] for box in page.having("box")]
    assert sorted(titles) == sorted(
        [
            CLASSES[0],
            CLASSES[1],
            f"{CLASSES[1]} (crowd region)",
            f"{CLASSES[0]} 0.80",
            f"{CLASSES[1]} 0.90 (wrong)",
            f"{CLASSES[0]} 0.30 (wrong)",
        ]
    )
    assert len(page.having("crowd")) == 1
    scores = [(box["title"].split()[-2:], set(box["class"].split())) for box in page.having("steps-2")]
    assert scores == [(["0.30", "(wrong)"], {"box", "wrong", "steps-2"})]  # of 0.05, 0.25, 0.50, 0.75, 0.80
    assert len(page.having("steps-5")) == 2
    choices = [attrs for tag, attrs in page.elements if tag == "input"]
    assert [choice["id"] for choice in choices if "checked" in choice] == ["score-5"]
    assert len(page.having("panel")) == 4
    text = page.sections["detections"]
    assert "at least 0.05 0.25 0.50 0.75 0.80 (best balance) First what" in text
    assert "1.png: 1 of 2 found, 1 wrong" in text
    assert "2.png: nothing to find; nothing scores 0.80, the best 0.30" in text
    # 1 of 2 shown is right, 1 of 2 objects found; with the third detection F1 would be 2 / (3 + 2)
    assert (
        "at least 0.80, where precision and recall balance best over all validation images (F1 50.0 %)"
        in text
    )


def test_precision_is_drawn_against_recall(run_dir):
    lines = {"0.50": [1.0] * 50 + [0.0] * 51, "0.75": [0.5] * 101, "0.50:0.95": [0.25] * 101}
    write_curves(run_dir / "detection", Curves(lines, {name: [0.5] * 101 for name in CLASSES}))
    page = read(run_dir)
    text = page.sections["detector"]
    assert "Precision against recall, mean of the classes, by IoU" in text
    assert "recall, %" in text
    assert "Precision against recall of each class, IoU 0.50 0 % 20 % 40 % 60 % 80 % 100 %" in text
    assert f"recall, % {' '.join(CLASSES)}" in text
    drawn = [attrs for tag, attrs in page.elements if tag == "path" and "line-2" in attrs.get("class", "")]
    assert len(drawn) == 2  # wide and narrow, of the means only


def test_the_best_step_of_the_validations_is_marked(run_dir):
    rows = ["step,val/AP,val/AP50,loss", "49,,,1.5", "50,0.125,0.25,", "100,0.375,0.5,", "150,0.375,0.75,"]
    (run_dir / "detection" / "metrics.csv").write_text("\n".join(rows))
    page = read(run_dir)
    text = page.sections["detector"]
    assert "AP over the training steps, val images" in text
    assert text.count("best AP 37.5 %, step 100") == 2  # wide and narrow
    assert len(page.having("best-step")) == 2
    assert len([one for one in page.having("point-dots") if "val-AP" in one["class"].split()]) == 2


def test_one_evaluation_gives_a_chart_in_which_it_is_seen(run_dir):
    (run_dir / "detection" / "metrics.csv").write_text("step,val/AP,val/AP50\n20,0.0,0.0\n")
    page = read(run_dir)
    assert "best AP 0.0 %, step 20" in page.sections["detector"]
    dots = [one["d"] for one in page.having("point-dots") if "val-AP" in one["class"].split()]
    assert all(re.fullmatch(r"M[\d.]+ [\d.]+h0", dot) for dot in dots)
    assert len(dots) == 2


@pytest.mark.parametrize("by", ["weights", "predictions"])
def test_an_evaluation_shows_its_detections_and_how_to_repeat_it(tmp_path, by):
    data, output = write_data(tmp_path / "data"), tmp_path / "out"
    detector = small_detector([CategoryEntry(5, CLASSES[0]), CategoryEntry(9, CLASSES[1])])
    detector.save(tmp_path / "detector.safetensors", {})
    evaluate(EvaluateConfig(weights=str(tmp_path / "detector.safetensors"), data=data, output=str(output)))
    if by == "predictions":
        given = str(output / "predictions.json")
        output = tmp_path / "again"
        evaluate(EvaluateConfig(predictions=given, data=data, output=str(output)))
    page = read(output)
    assert list(page.sections) == ["detector", "detections", "again"]
    assert len(page.having("pair")) == 2
    assert not page.having("note")
    assert "The evaluation again" in page.sections["again"]
    assert torch.__version__.split("+")[0] in page.sections["again"]


def test_an_evaluation_without_annotations_shows_what_was_found(tmp_path):
    data, output = write_data(tmp_path / "data"), tmp_path / "out"
    content = json.loads((tmp_path / "data" / "val.json").read_text())
    del content["annotations"]
    (tmp_path / "data" / "val.json").write_text(json.dumps(content))
    detector = small_detector([CategoryEntry(5, CLASSES[0]), CategoryEntry(9, CLASSES[1])])
    detector.save(tmp_path / "detector.safetensors", {})
    evaluate(EvaluateConfig(weights=str(tmp_path / "detector.safetensors"), data=data, output=str(output)))
    page = read(output)
    assert len(page.having("pair")) == 2
    assert page.having("box")


def test_of_many_classes_the_best_and_the_worst_have_curves():
    curves = Curves({}, {f"class {i}": [i / 20] * 101 for i in range(20)})
    assert list(curves.best_and_worst(4)) == ["class 19", "class 18", "class 1", "class 0"]
    assert list(curves.best_and_worst(20)) == [f"class {i}" for i in range(20)]


def test_a_detector_alone_has_a_page_of_its_own(run_dir):
    folder = run_dir / "detection"
    write_curves(folder, Curves({"0.50": [1.0] * 101}, {}))
    page = read(folder)
    assert list(page.sections) == ["detector", "detections", "again"]
    assert [attrs["href"] for tag, attrs in page.elements if tag == "a"] == [
        f"#{key}" for key in page.sections
    ]
    assert len(page.having("pair")) == len(read(run_dir).having("pair")) == 2
    assert "2 images of val.json" in page.sections["detector"]
    assert f"predictions={folder / 'predictions.json'}" in page.sections["again"]


def test_one_class_and_one_image_are_singular(run_dir):
    folder = run_dir / "detection"
    small_detector([CategoryEntry(5, CLASSES[0])]).save(folder / "detector.safetensors", {})
    metrics = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").write_text(json.dumps(metrics | {"images": 1}))
    text = read(folder).sections["detector"]
    assert re.search(r"Engine \w+, 1 class\.", text)
    assert "1 image of val.json" in text


def test_a_detectors_evaluation_alone_says_that_it_has_no_images(run_dir):
    folder = run_dir / "detection"
    write_curves(folder, Curves({"0.50": [1.0] * 101}, {}))
    (folder / "config.yaml").unlink()
    page = read(folder)
    assert list(page.sections) == ["detector", "detections", "again"]
    assert "it needs predictions.json and the validation images" in page.sections["detections"]


def test_boxes_lie_where_the_annotation_says(run_dir):
    crowd = read(run_dir).having("crowd")[0]
    place = {
        key: float(value.rstrip("%")) for key, value in (p.split(":") for p in crowd["style"].split(";")[:4])
    }
    expected = {"left": 110 / 160, "top": 10 / 120, "width": 50 / 160, "height": 100 / 120}
    assert place == {key: pytest.approx(100 * value, abs=0.01) for key, value in expected.items()}


def test_ten_large_images_keep_the_page_below_three_megabytes(tmp_path, run_dir):
    data = write_data(tmp_path / "large", size=(900, 700), images=14)
    write_config(run_dir / "detection", {"data": plain(data)})
    path = write_report(run_dir)
    assert len(Page(path.read_text()).having("pair")) == 10
    assert path.stat().st_size < 3e6
