"""The benchmark of the evaluators runs on small data and notices numbers that differ."""

import pytest

from benchmarks import detection_evaluation


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(detection_evaluation, "IMAGES", 20)
    monkeypatch.setattr(detection_evaluation, "BOXES", 150)


def test_the_fast_evaluator_is_compared_with_the_official_one_from_a_file_and_from_memory():
    rows = {row.work: row for row in detection_evaluation.scoring(1)}
    for work in (detection_evaluation.FILE, detection_evaluation.MEMORY):
        against, limit = rows[f"{work}, pycocotools"], rows[f"{work}, the goal"]
        assert against.goal == 4
        assert against.quartiles[1] > 0
        assert limit.peer == "1.50 s"
        assert limit.verdict == "met"


def test_evaluators_that_differ_give_no_table(monkeypatch):
    def differing(coco, results, evaluator):
        return evaluate(coco, results[::2], evaluator)

    evaluate = detection_evaluation.evaluate
    monkeypatch.setattr(detection_evaluation, "evaluate", differing)
    with pytest.raises(SystemExit, match="hotcoco and pycocotools differ by"):
        list(detection_evaluation.scoring(1))
