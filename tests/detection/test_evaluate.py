import contextlib
import io
import json
import logging

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detection.coco import read_coco
from detection.data import CocoDataConfig
from detection.engines.base import Prediction
from detection.evaluate import (
    METRICS,
    EvaluateConfig,
    Result,
    evaluate,
    read_results,
    run,
    to_results,
    write_results,
)


def random_data(seed: int, folder):
    """Annotations with id gaps, crowds, negatives and ties, and detections near and far from them."""
    generator = np.random.default_rng(seed)
    category_ids = [1, 3, 90, 100]
    ids = [5 * i + 1 for i in range(12)]
    images = [{"id": i, "file_name": f"{i}.png", "width": 300, "height": 200} for i in ids]
    annotations: list[dict] = []
    results: list[Result] = []
    for image_id in ids:
        for _ in range(generator.integers(0, 6)):
            size = float(generator.choice([12, 50, 150])) * generator.uniform(0.8, 1.2)
            bbox = [*generator.uniform(0, 100, 2).round(1).tolist(), round(size, 2), round(size * 0.7, 2)]
            category = int(generator.choice(category_ids[:3]))  # 100 has no annotation
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category,
                    "bbox": bbox,
                    "area": bbox[2] * bbox[3] * 0.9,
                    "iscrowd": int(generator.random() < 0.15),
                }
            )
            for _ in range(generator.integers(0, 4)):
                shifted = (np.array(bbox) + generator.normal(0, size / 12, 4)).clip(1).round(3).tolist()
                score = float(generator.choice([0.5, generator.random()]).round(6))
                kind = category if generator.random() < 0.8 else int(generator.choice(category_ids))
                results.append(Result(image_id, kind, tuple(shifted), score))
    categories = [{"id": category, "name": f"thing {category}"} for category in category_ids]
    path = folder / f"{seed}.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path, results


def stock_stats(annotations, predictions) -> list[float]:
    """What pycocotools prints for two files."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        scorer = COCOeval(truth, truth.loadRes(str(predictions)), "bbox")
        scorer.evaluate()
        scorer.accumulate()
        scorer.summarize()
    return scorer.stats.tolist()


@pytest.mark.parametrize("seed", range(8))
def test_the_numbers_are_those_of_stock_pycocotools_on_the_written_file(tmp_path, seed):
    annotations, results = random_data(seed, tmp_path)
    write_results(tmp_path / "predictions.json", results)
    coco, _ = read_coco(annotations)
    metrics = evaluate(coco, results).metrics
    expected = stock_stats(annotations, tmp_path / "predictions.json")
    assert list(metrics) == list(METRICS)
    assert list(metrics.values()) == [max(value, 0.0) for value in expected]
    assert evaluate(coco, read_results(tmp_path / "predictions.json", coco)).metrics == metrics


def test_perfect_detections_score_one(tmp_path):
    coco, _ = read_coco(random_data(1, tmp_path)[0])
    rows = np.repeat(np.arange(len(coco)), np.diff(coco.first))
    results = [
        Result(int(coco.image_ids[i]), coco.category_ids[label], tuple(bbox), 0.9)
        for i, label, bbox in zip(rows, coco.labels, coco.bboxes.tolist(), strict=True)
    ]
    evaluation = evaluate(coco, results)
    assert evaluation.metrics["AP"] == pytest.approx(1.0)
    assert evaluation.per_class["thing 90"] == pytest.approx({"AP": 1.0, "AP50": 1.0, "AR100": 1.0})


def test_per_class_figures_average_to_the_whole(tmp_path):
    annotations, results = random_data(2, tmp_path)
    evaluation = evaluate(read_coco(annotations)[0], results)
    for key in ("AP", "AP50", "AR100"):
        annotated = [evaluation.per_class[f"thing {category}"][key] or 0.0 for category in (1, 3, 90)]
        assert np.mean(annotated) == pytest.approx(evaluation.metrics[key], abs=1e-12)


def test_a_class_without_boxes_has_no_figures_where_one_without_detections_has_zero(tmp_path):
    annotations, _ = random_data(2, tmp_path)
    per_class = evaluate(read_coco(annotations)[0], []).per_class
    assert per_class["thing 100"] == {"AP": None, "AP50": None, "AR100": None}
    assert per_class["thing 90"] == {"AP": 0.0, "AP50": 0.0, "AR100": 0.0}


def test_no_detections_give_zeros_and_a_warning(tmp_path, caplog):
    coco, _ = read_coco(random_data(0, tmp_path)[0])
    with caplog.at_level(logging.WARNING):
        evaluation = evaluate(coco, [])
    assert set(evaluation.metrics.values()) == {0.0}
    assert "no detections at all" in caplog.text


def test_no_annotations_give_zeros_and_say_so(coco_file, caplog):
    coco, _ = read_coco(coco_file(annotations=[]))
    with caplog.at_level(logging.WARNING):
        evaluation = evaluate(coco, [Result(7, 1, (1, 2, 3, 4), 0.5)])
    assert set(evaluation.metrics.values()) == {0.0}
    assert evaluation.undefined == list(METRICS)
    assert "no annotated boxes for AP, AP50" in caplog.text


def test_nothing_is_printed(tmp_path, capsys):
    annotations, results = random_data(0, tmp_path)
    evaluate(read_coco(annotations)[0], results)
    assert capsys.readouterr().out == ""


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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ('{"a": 1}', "Expected `array`, got `object`"),
        ('[{"image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 4]}]', "missing required field `score`"),
        ('[{"image_id": 8, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]', "image_id 8 is not in"),
        (
            '[{"image_id": 7, "category_id": 2, "bbox": [1, 2, 3, 4], "score": 0.5}]',
            "category_id 2 is not in",
        ),
    ],
)
def test_a_bad_predictions_file_is_refused_with_its_name(coco_file, tmp_path, content, message):
    path = tmp_path / "predictions.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as refusal:
        read_results(path, read_coco(coco_file())[0])
    assert str(refusal.value).startswith(f"{path}: ")


def test_predictions_are_scored_without_model_and_images(coco_file, tmp_path, capsys):
    annotations = coco_file()
    results = [Result(3, 90, (1, 2, 10, 20), 0.9), Result(7, 1, (35, 5, 10.5, 8), 0.8)]
    write_results(tmp_path / "predictions.json", results)
    data = CocoDataConfig(root=str(tmp_path), val_annotations=annotations.name)
    config = EvaluateConfig(
        predictions=str(tmp_path / "predictions.json"), data=data, output=str(tmp_path / "out")
    )
    content = run(config)
    assert content["metrics"]["AP"] == pytest.approx(1.0)
    assert json.loads(capsys.readouterr().out) == content
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == content


def test_no_threads_at_all_are_refused():
    with pytest.raises(ValueError, match="threads = 0, must be at least 1"):
        EvaluateConfig(predictions="a", data=CocoDataConfig(), threads=0)


def test_weights_and_predictions_exclude_each_other():
    with pytest.raises(ValueError, match="give one of them"):
        EvaluateConfig(data=CocoDataConfig())
    with pytest.raises(ValueError, match="give one of them"):
        EvaluateConfig(weights="a", predictions="b", data=CocoDataConfig())
