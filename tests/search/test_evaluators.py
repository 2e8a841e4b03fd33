"""Who scores children: our training, or a callable of the user's."""

import pytest
from toy_search import Favourite, toy_config

from search.children.config import ChildConfig
from search.children.cost import predicted_microseconds
from search.ledger.reader import read_children
from search.run import run


def test_children_cost_what_their_evaluator_predicts(tmp_path):
    run(toy_config(tmp_path, 3))
    for row in read_children(tmp_path / "search.sqlite"):
        assert row.cost == row.finish - row.start == Favourite().predicted_microseconds(row.genotype)


def test_children_cost_their_training_where_the_evaluator_predicts_nothing(tmp_path):
    child = ChildConfig(filters=4, epochs=3)
    run(toy_config(tmp_path, 3, evaluator={"_target_": "toy_search.score"}, child=child))
    for row in read_children(tmp_path / "search.sqlite"):
        assert row.cost == predicted_microseconds(row.genotype, child, images=1)


def test_plain_function_with_arguments_can_score(tmp_path):
    content = run(toy_config(tmp_path, 3, evaluator={"_target_": "toy_search.score", "scale": 0.5}))
    assert content["metrics"]["best_reward"] <= 0.5


@pytest.mark.parametrize("target", ["nonsense", "", "search.run.absent", "absent.module"])
def test_unknown_evaluator_is_named_before_anything_is_written(tmp_path, target):
    with pytest.raises(ValueError, match=f"evaluator._target_ = '{target}', expected a dotted path"):
        run(toy_config(tmp_path / "run", 3, evaluator={"_target_": target}))
    assert not (tmp_path / "run").exists()


def test_evaluator_whose_module_needs_something_absent_says_what(tmp_path, monkeypatch):
    (tmp_path / "rewards").mkdir()
    (tmp_path / "rewards" / "mine.py").write_text("import absent_package\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"'rewards\.mine\.score', .*: No module named 'absent_package'"):
        run(toy_config(tmp_path / "run", 3, evaluator={"_target_": "rewards.mine.score"}))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"_target_": "toy_search.Favourite", "wrong": 1},
            "evaluator: toy_search.Favourite got an unexpected keyword argument 'wrong'",
        ),
        (
            {"_target_": "toy_search.score", "scales": 0.5},
            "evaluator: toy_search.score got an unexpected keyword argument 'scales'",
        ),
        ({"_target_": "toy_search.FAVOURITE"}, "evaluator: toy_search.FAVOURITE cannot be called"),
    ],
)
def test_an_evaluator_is_refused_with_arguments_that_it_does_not_take(tmp_path, given, message):
    with pytest.raises(ValueError) as error:
        run(toy_config(tmp_path / "run", 3, evaluator=given))
    assert str(error.value) == message
    assert not (tmp_path / "run").exists()
