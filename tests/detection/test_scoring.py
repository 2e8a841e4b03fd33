"""COCO's numbers: those of stock pycocotools, and the same to the last bit by hotcoco."""

import json
import logging
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detection.data.annotations import read_coco
from detection.data.config import CocoDataConfig
from detection.evaluation.config import EVALUATORS, EvaluateConfig
from detection.evaluation.matches import match
from detection.evaluation.results_file import Result, read_results, write_results
from detection.evaluation.scoring import METRICS, evaluate

CATEGORY_IDS = [1, 3, 90, 100]
"""With gaps; the last one never has an annotated box."""

IMAGE_ID = st.integers(0, 999) | st.integers(2**53, 2**53 + 2)  # no float tells those apart
# Coordinates on a coarse grid, so that overlaps meet COCO's thresholds exactly; areas at its size ranges'
# ends; few scores, so that many are equal.
BOX = st.tuples(
    st.sampled_from([0, 4, 10, 30.5]),
    st.sampled_from([0, 7, 20]),
    st.sampled_from([8, 10, 16, 20, 32, 96, 120]),
    st.sampled_from([8, 10, 32, 96]),
)
ANNOTATION = st.tuples(
    st.integers(0, 6), st.sampled_from(CATEGORY_IDS[:3]), BOX, st.sampled_from([0.5, 1, 1]), st.integers(0, 9)
)
DETECTION = st.tuples(
    st.integers(0, 6), st.sampled_from(CATEGORY_IDS), BOX, st.sampled_from([0.0, 0.25, 0.5, 0.5, 1.0])
)


def write_annotations(path, image_ids, annotations):
    """annotations: place of the image, category, box, share of the box that is the object, 0 for a crowd."""
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 300, "height": 200} for i in image_ids],
        "annotations": [
            {
                "id": number,
                "image_id": image_ids[place % len(image_ids)],
                "category_id": category,
                "bbox": list(box),
                "area": box[2] * box[3] * share,
                "iscrowd": int(crowd == 0),
            }
            for number, (place, category, box, share, crowd) in enumerate(annotations, start=1)
        ],
        "categories": [{"id": category, "name": f"thing {category}"} for category in CATEGORY_IDS],
    }
    path.write_text(json.dumps(content))
    return read_coco(path)[0]


def as_results(image_ids, detections):
    return [Result(image_ids[p % len(image_ids)], c, tuple(map(float, b)), s) for p, c, b, s in detections]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(IMAGE_ID, min_size=1, max_size=6, unique=True),
    st.lists(ANNOTATION, max_size=25),
    st.lists(DETECTION, max_size=60),
    st.sampled_from([1, 1, 110]),
    st.booleans(),
)
def test_both_evaluators_agree_on_every_bit(
    tmp_path_factory, image_ids, annotations, detections, repeated, strangers
):
    """repeated: of the first detection, more than count in one image. strangers: in an image and of a class
    that the annotations do not have."""
    path = tmp_path_factory.getbasetemp() / "drawn.json"
    coco = write_annotations(path, image_ids, annotations)
    results = as_results(image_ids, detections[:1] * (repeated - 1) + detections)
    if strangers:
        results = [Result(5000, 1, (0, 0, 8, 8), 1.0), *results, Result(image_ids[0], 2, (0, 0, 8, 8), 1.0)]
    official, fast = (evaluate(coco, results, evaluator) for evaluator in EVALUATORS)
    assert official == fast


def random_data(seed: int, path, images: int = 12):
    """Annotations with id gaps, crowds, negatives and ties; detections near and far from them, in one image
    more of one class than are counted."""
    generator = np.random.default_rng(seed)
    image_ids = [5 * i + 1 for i in range(images)]
    annotations, detections = [], []
    for place in range(images):
        for _ in range(generator.integers(0, 6)):
            size = float(generator.choice([12, 50, 150])) * generator.uniform(0.8, 1.2)
            box = [*generator.uniform(0, 100, 2).round(1).tolist(), round(size, 2), round(size * 0.7, 2)]
            category = int(generator.choice(CATEGORY_IDS[:3]))
            annotations.append((place, category, box, 0.9, int(generator.integers(0, 8))))
            for _ in range(150 if not detections else generator.integers(0, 4)):
                shifted = (np.array(box) + generator.normal(0, size / 12, 4)).clip(1).round(3).tolist()
                score = float(generator.choice([0.5, generator.random()]).round(6))
                kind = category if generator.random() < 0.8 else int(generator.choice(CATEGORY_IDS))
                detections.append((place, kind, shifted, score))
    return write_annotations(path, image_ids, annotations), as_results(image_ids, detections)


STOCK = """
import contextlib, io, json, sys
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
with contextlib.redirect_stdout(io.StringIO()):
    truth = COCO(sys.argv[1])
    scorer = COCOeval(truth, truth.loadRes(sys.argv[2]), "bbox")
    scorer.evaluate()
    scorer.accumulate()
    scorer.summarize()
print(json.dumps(scorer.stats.tolist()))
"""


@pytest.mark.parametrize("seed", range(3))
def test_stock_pycocotools_gives_the_reported_numbers_of_the_written_files(tmp_path, seed):
    coco, results = random_data(seed, tmp_path / "annotations.json")
    write_results(tmp_path / "predictions.json", results)
    files = [str(tmp_path / name) for name in ("annotations.json", "predictions.json")]
    done = subprocess.run([sys.executable, "-c", STOCK, *files], capture_output=True, text=True, check=True)
    metrics = evaluate(coco, results).metrics
    stock = zip(METRICS, json.loads(done.stdout), strict=True)
    assert list(metrics.items()) == [(name, value) for name, value in stock if value >= 0]
    assert evaluate(coco, read_results(tmp_path / "predictions.json", coco)).metrics == metrics
    assert evaluate(coco, results, "fast") == evaluate(coco, results)


@pytest.fixture(params=list(EVALUATORS))
def evaluator(request):
    return request.param


def test_perfect_detections_score_one(tmp_path, evaluator):
    coco, _ = random_data(1, tmp_path / "a.json")
    rows = np.repeat(np.arange(len(coco)), np.diff(coco.first))
    results = [
        Result(int(coco.image_ids[i]), coco.category_ids[label], tuple(bbox), 0.9)
        for i, label, bbox in zip(rows, coco.labels, coco.bboxes.tolist(), strict=True)
    ]
    evaluation = evaluate(coco, results, evaluator)
    assert evaluation.metrics["AP"] == pytest.approx(1.0)
    assert evaluation.per_class["thing 90"]["AP"] == pytest.approx(1.0)
    assert evaluation.per_class["thing 90"]["AR100"] == pytest.approx(1.0)
    assert set(evaluation.curves.per_class["thing 90"]) == {1.0}


def test_figures_of_the_classes_average_to_the_whole(tmp_path, evaluator):
    evaluation = evaluate(*random_data(2, tmp_path / "a.json"), evaluator)
    for key in ("AP", "AP50", "AP75", "AR1", "AR10", "AR100"):
        annotated = [evaluation.per_class[f"thing {category}"][key] for category in CATEGORY_IDS[:3]]
        assert np.mean(annotated) == pytest.approx(evaluation.metrics[key], abs=1e-12)
    curves = evaluation.curves
    assert np.mean(curves.mean["0.50"]) == pytest.approx(evaluation.metrics["AP50"], abs=1e-6)
    assert np.mean(curves.mean["0.75"]) == pytest.approx(evaluation.metrics["AP75"], abs=1e-6)
    assert np.mean(curves.mean["0.50:0.95"]) == pytest.approx(evaluation.metrics["AP"], abs=1e-6)
    for name, curve in curves.per_class.items():
        assert np.mean(curve) == pytest.approx(evaluation.per_class[name]["AP50"], abs=1e-6)


def test_a_class_has_figures_by_size_where_it_has_boxes_of_it(tmp_path, evaluator):
    box = (0, 0, 20, 20)
    coco = write_annotations(tmp_path / "a.json", [4], [(0, 1, box, 1, 1), (0, 3, (0, 0, 120, 96), 1, 1)])
    evaluation = evaluate(coco, as_results([4], [(0, 1, box, 0.5)]), evaluator)
    by_size = {name: [v[key] for key in ("APs", "APm", "APl")] for name, v in evaluation.per_class.items()}
    assert by_size == {
        "thing 1": [pytest.approx(1.0), None, None],
        "thing 3": [None, None, 0.0],
        "thing 90": [None, None, None],
        "thing 100": [None, None, None],
    }
    assert evaluation.undefined == ["APm", "ARm"]
    assert list(evaluation.metrics) == [name for name in METRICS if name not in ("APm", "ARm")]


def test_the_summary_is_one_line_in_percent_with_a_dash_for_what_is_undefined(tmp_path, caplog):
    box = (0, 0, 20, 20)
    coco = write_annotations(tmp_path / "a.json", [4], [(0, 1, box, 1, 1), (0, 3, (50, 0, 20, 20), 1, 1)])
    with caplog.at_level(logging.INFO):
        evaluation = evaluate(coco, as_results([4], [(0, 1, box, 0.5)]))
    half = "AP 50.0  AP50 50.0  AP75 50.0  APs 50.0  APm -  APl -  AR1 50.0  AR10 50.0  AR100 50.0  ARs 50.0"
    assert evaluation.summary() == f"{half}  ARm -  ARl -"
    assert evaluation.summary() in caplog.text


def test_no_detections_give_zeros_and_a_warning(tmp_path, caplog, evaluator):
    coco, _ = random_data(0, tmp_path / "a.json")
    with caplog.at_level(logging.WARNING):
        evaluation = evaluate(coco, [], evaluator)
    assert set(evaluation.metrics.values()) == {0.0}
    assert evaluation.undefined == []
    assert "no detections at all" in caplog.text
    assert evaluation.per_class["thing 100"] == dict.fromkeys(METRICS)
    assert evaluation.per_class["thing 90"]["AP"] == 0.0


def test_no_annotations_give_no_figures_and_say_so(coco_file, caplog, evaluator):
    coco, _ = read_coco(coco_file(annotations=[]))
    with caplog.at_level(logging.WARNING):
        evaluation = evaluate(coco, [Result(7, 1, (1, 2, 3, 4), 0.5)], evaluator)
    assert evaluation.metrics == {}
    assert evaluation.undefined == list(METRICS)
    assert evaluation.curves.mean == {}
    assert "no annotated boxes for AP, AP50" in caplog.text


@pytest.mark.parametrize("broken", [(1, 2, float("nan"), 4), (float("inf"), 2, 3, 4)])
def test_detections_that_are_not_finite_are_refused(coco_file, broken, evaluator):
    coco, _ = read_coco(coco_file())
    results = [Result(3, 1, (1, 2, 3, 4), 0.5), Result(7, 1, broken, 0.5)]
    with pytest.raises(ValueError, match=r"1 of 2 detections have a box or score .* in image 7"):
        evaluate(coco, results, evaluator)
    with pytest.raises(ValueError, match="1 of 1 detections"):
        evaluate(coco, [Result(7, 1, (1, 2, 3, 4), float("nan"))], evaluator)


def test_nothing_is_printed(tmp_path, capfd, evaluator):
    evaluate(*random_data(0, tmp_path / "a.json"), evaluator)
    assert capfd.readouterr().out == ""


def test_an_unknown_evaluator_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="evaluator = 'quick', expected one of pycocotools, fast"):
        EvaluateConfig(weights="detector.safetensors", data=CocoDataConfig(), evaluator="quick")


def test_a_process_forked_after_hotcoco_ran_has_the_same_figures(tmp_path):
    """hotcoco's threads are gone there, and it would wait for them for ever."""
    coco = write_annotations(tmp_path / "a.json", [1], [(0, 1, (0, 0, 8, 8), 1, 1)])
    found = [Result(1, 1, (0, 0, 8, 8), 0.5)]
    expected = evaluate(coco, found, "fast")
    if not (child := os.fork()):
        same = evaluate(coco, found, "fast").metrics == expected.metrics
        try:
            match(coco, found)
        except RuntimeError as error:
            os._exit(7 * (same and "hotcoco ran before this process was forked" in str(error)))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
