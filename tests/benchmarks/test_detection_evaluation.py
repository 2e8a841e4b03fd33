"""The benchmark of the evaluators runs on small data and notices numbers that differ."""

import pytest

from benchmarks import detection_evaluation


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(detection_evaluation, "IMAGES", 20)
    monkeypatch.setattr(detection_evaluation, "BOXES", 150)


def test_the_fast_evaluator_is_compared_with_the_official_one():
    (row,) = detection_evaluation.scoring(1)
    assert row.way == "fast"
    assert row.goal == 4
    assert row.quartiles[1] > 0


def test_evaluators_that_differ_give_no_table(monkeypatch):
    def differing(coco, results, evaluator):
        return official(coco, results if evaluator == "fast" else results[::2])

    official = detection_evaluation.evaluate
    monkeypatch.setattr(detection_evaluation, "evaluate", differing)
    with pytest.raises(SystemExit, match="the evaluators differ by"):
        list(detection_evaluation.scoring(1))
