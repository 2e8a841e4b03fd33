"""Searches that are read again: `search.replay`, stored configurations, references in them."""

import pytest
import yaml
from toy_search import evaluator, toy_config
from toy_studies import LEARNER, OBJECTIVE

from backbones.ranges import ConfigError
from classification.config import ImageDataConfig
from conf.compose import composed as compose
from search.children.config import ChildConfig
from search.children.evaluators import evaluation
from search.config import ObjectiveConfig
from search.ledger.reader import read_children
from search.messages import SearchPaused
from search.replay import main as replay
from search.run import run
from search.stored import stored_search


def test_copies_of_the_childs_settings_that_older_searches_stored_follow_it(tmp_path):
    run(toy_config(tmp_path, 2, evaluator=LEARNER))
    path = tmp_path / "config.yaml"
    stored = yaml.safe_load(path.read_text())
    stored["evaluator"] = {"deep": {"child": dict(stored["child"])}, "data": {"name": "digits"}}
    path.write_text(yaml.safe_dump(stored))
    again = stored_search(tmp_path, strategy=None, executor=None, run_dir="")
    assert again.evaluator == {"deep": {"child": "${child}"}, "data": {"name": "digits"}}


def test_references_in_a_command_stay_references_and_all_else_is_resolved(tmp_path):
    words = ["_target_=a.B", "child=${child}", "n=[${child.epochs}]", "seed=${..seed}", "text=${seed}s"]
    words += ["data=${data}", "window=${window}"]
    asked = compose("search", "data=digits", *(f"+evaluator.{word}" for word in words))
    references = {"child": "${child}", "n": ["${child.epochs}"], "seed": "${seed}", "data": "${data}"}
    assert asked.evaluator == {"_target_": "a.B", "text": "0s", "window": 40, **references}
    chain = ["+search.evaluator._target_=a.B", "+search.evaluator.child=${search.child}"]
    asked = compose("pipeline", "experiment=demo", *chain, "+search.evaluator.seed=${seed}")
    assert asked.search.evaluator == {"_target_": "a.B", "child": "${child}", "seed": "${seed}"}
    with pytest.raises(ConfigError, match=r"evaluator: \$\{child.size\} names no key of the search"):
        evaluation({"_target_": "a.B", "n": "${child.size}"}, ImageDataConfig(), ChildConfig(), 0)


def test_replay_weighs_as_the_search_did(tmp_path, capsys):
    """A child that lacks the cost fails by the objective, not by its training."""
    objective = ObjectiveConfig(cost="energy", target=1)
    with pytest.raises(SearchPaused):
        run(toy_config(tmp_path / "a", 2, evaluator=evaluator(), objective=objective))
    assert replay([str(tmp_path / "a"), "0"]) == 0
    assert "objective.cost = 'energy' is not among its metrics" in capsys.readouterr().out
    run(toy_config(tmp_path / "b", 2, evaluator=evaluator(), objective=OBJECTIVE))
    (row, *_) = read_children(tmp_path / "b" / "search.sqlite")
    assert replay([str(tmp_path / "b"), "0"]) == 0
    assert capsys.readouterr().out.count(f"reward {row.reward:.4g}, ") == 2


def test_replay_says_whether_a_child_comes_out_the_same(tmp_path, capsys):
    run(toy_config(tmp_path, 4, evaluator=evaluator()))
    assert replay([str(tmp_path), "2"]) == 0
    assert capsys.readouterr().out.endswith("the same\n")
    config = tmp_path / "config.yaml"
    config.write_text(config.read_text().replace("toy_search.Favourite", "toy_search.score\n  scale: 0.5"))
    changed = [row.number for row in read_children(tmp_path / "search.sqlite") if row.reward]
    assert replay([str(tmp_path), str(changed[0])]) == 1
    assert capsys.readouterr().out.endswith("not the same\n")
    with pytest.raises(SystemExit, match=r"child 9 has not been trained; it has 0\.\.3"):
        replay([str(tmp_path), "9"])
