"""Cells that are trained again: `search.rerank`, `search.probe`, `search.replay`."""

import contextlib
import dataclasses
import itertools
import json
import math
import re
import shlex
import sqlite3
import statistics
from pathlib import Path

import pytest
import yaml
from commands import run_here
from hypothesis import given
from hypothesis import strategies as st
from toy_search import DIGITS, TINY, evaluator, toy_config

import conf
from backbones.genotype import Genotype
from backbones.ranges import ConfigError
from classification.config import ImageDataConfig
from conf.compose import composed as compose
from runtime.folder import plain
from search.children.config import ChildConfig
from search.children.evaluators import evaluation
from search.choosing import best_cells, recorded_costs, scored
from search.command_words import SET_BY_CHOICE
from search.config import ObjectiveConfig, SpaceConfig
from search.executors.config import InlineConfig
from search.ledger.reader import read_children
from search.messages import Result, SearchPaused
from search.pareto import pareto_ranks
from search.probing import probe
from search.rank_agreement import FEWEST, agreement, kendall_tau
from search.replay import main as replay
from search.report import main as report
from search.reranking import rerank
from search.run import run
from search.status import main as status
from search.stored import stored_search
from search.studies_config import LongerConfig, ProbeConfig, RerankConfig, StudyBudgetConfig


class Noisy:
    """Scores by the cell and the seed, and counts."""

    calls = 0

    def __call__(self, genotype, task):
        Noisy.calls += 1
        accuracy = int(genotype.key, 16) % 1000 / 1000
        noise = task.seed % 1000 / 1e5
        return Result(task.proposal, reward=accuracy + noise, metrics={"latency": 1.0 + accuracy})


@pytest.fixture
def searched(tmp_path):
    run(toy_config(tmp_path / "search", 12, evaluator={"_target_": f"{__name__}.Noisy"}))
    return tmp_path / "search"


def reranking(searched, **settings):
    settings = {"top": 4, "seeds": 3, "executor": InlineConfig(), "child": LongerConfig(epochs=7)} | settings
    return RerankConfig(dir=str(searched), run_dir=str(searched / "rerank"), **settings)


def test_the_best_unique_cells_are_trained_again_with_every_seed(searched):
    rows = read_children(searched / "search.sqlite")
    unique = [row for row in rows if row.original is None]
    expected = sorted(unique, key=lambda row: -row.reward)[:4]
    Noisy.calls = 0
    content = rerank(reranking(searched))
    assert Noisy.calls == 4 * 3
    ranking = json.loads((searched / "rerank" / "rerank.json").read_text())
    assert {entry["child"] for entry in ranking} == {row.number for row in expected}
    assert [entry["reward"] for entry in ranking] == sorted((e["reward"] for e in ranking), reverse=True)
    assert all(len(set(entry["rewards"])) == 3 for entry in ranking)  # another seed, another score
    best = Genotype.load(searched / "rerank" / "genotype.json")
    assert best.key == rows[ranking[0]["child"]].cell_key
    assert best.origin["reranked"] == ranking[0]["reward"] == content["metrics"]["best_reward"]
    assert "epochs: 7" in (searched / "rerank" / "seed3" / "config.yaml").read_text()
    assert not (searched / "rerank" / "seed0").exists()  # the search's own, which chose these cells


def test_a_ranking_says_what_its_spread_is(searched, caplog):
    with caplog.at_level("INFO"):
        rerank(reranking(searched))
    first = json.loads((searched / "rerank" / "rerank.json").read_text())[0]
    assert first["spread"] == pytest.approx(statistics.stdev(first["rewards"]))
    told = f"{first['reward']:.4g} (mean over 3 seeds, standard deviation {first['spread']:.2g})"
    assert f"child {first['child']}: {told}; in the search {first['searched']:.4g}" in caplog.messages
    assert "learned nothing" not in caplog.text  # an evaluator of the user's, of which chance is not known


def test_a_rerank_of_cells_that_learn_nothing_says_so(tmp_path, caplog):
    child = dataclasses.replace(TINY, lr=1e-9, epochs=1)
    folder = tmp_path / "search"
    run(toy_config(folder, 3, data=DIGITS, child=child, evaluator=None))
    caplog.clear()
    rerank(reranking(folder, seeds=2, top=2, child=LongerConfig(epochs=1)))
    said = [text for text in caplog.messages if "they have learned nothing" in text]
    assert len(said) == 1
    assert said[0].startswith("the 4 training runs score ")


def test_a_rerank_has_one_name_for_a_cell(searched, caplog):
    config = reranking(searched, top=3, seeds=1)
    with caplog.at_level("INFO"):
        rerank(config)
        lines = len(caplog.messages)
        (searched / "rerank" / "metrics.json").unlink()
        rerank(config)
    best = read_children(searched / "rerank" / "seed1" / "search.sqlite")
    chosen = [entry["child"] for entry in json.loads((searched / "rerank" / "cells.json").read_text())]
    place = max(range(3), key=lambda i: best[i].reward)
    said = f"cell {place + 1} of 3 (child {chosen[place]} of the search)"
    line = f"best reward {best[place].reward:.4g}: {said}"
    first, again = caplog.messages[:lines], caplog.messages[lines:]
    assert [line in first, line in again] == [True, True]
    # The first training's other children have numbers of their own, which nobody sees.
    named = {int(number) for text in first for number in re.findall(r"child (\d+)", text)}
    assert named <= set(chosen)
    assert not any("search: finished" in text or "seed1/genotype.json" in text for text in first + again)


@pytest.mark.parametrize("name", ["rerank", "two, three = {five} 'quo\"ted'"])
def test_the_command_after_a_rerank_can_be_typed(tmp_path, caplog, name):
    data = ImageDataConfig(crop_padding=1, root="a, b")  # flip: not as data=digits has it
    run(toy_config(tmp_path / "search", 3, evaluator=evaluator(), data=data))
    with caplog.at_level("INFO"):
        config = RerankConfig(
            dir=str(tmp_path / "search"), run_dir=str(tmp_path / name), seeds=1, executor=InlineConfig()
        )
        rerank(config)
    done = composed(*typed(caplog.messages), cwd=tmp_path)
    assert done["backbone"]["name"] == str(tmp_path / name / "genotype.json")
    assert done["data"] == plain(data)


def test_what_the_choices_of_data_set_is_known():
    for path in (Path(conf.__file__).parent / "data").glob("*.yaml"):
        choice = yaml.safe_load(path.read_text())
        if choice["defaults"] == ["images_schema"]:
            kept = {"name", "defaults", "root"}
            assert SET_BY_CHOICE[choice["name"]] == tuple(key for key in choice if key not in kept)


def typed(messages):
    """The words of the command in the last line that a study logged."""
    line = messages[-1]
    assert line.startswith("next: "), line
    return shlex.split(line.partition("python -m ")[2])


def composed(*words, cwd):
    """What `python -m` words gives, without a run; references resolved."""
    done = run_here(*words, "--cfg", "job", "--resolve", cwd=cwd)
    assert (done.returncode, done.stderr) == (0, "")
    return yaml.safe_load(done.stdout)


def test_what_was_trained_is_not_trained_again(searched):
    content = rerank(reranking(searched))
    Noisy.calls = 0
    (searched / "rerank" / "seed2" / "metrics.json").unlink()  # as after a kill
    assert rerank(reranking(searched)) == content
    assert Noisy.calls == 0
    with pytest.raises(ValueError, match="top: 4 -> 3"):
        rerank(reranking(searched, top=3))


def test_the_pareto_front_comes_first(searched):
    ledger = searched / "search.sqlite"
    children = scored(ledger)
    rows = best_cells(children, 99, recorded_costs(children, "latency", ledger))
    ranks = pareto_ranks([(row.accuracy, row.metrics["latency"]) for row in rows])
    assert ranks == sorted(ranks)
    with pytest.raises(
        ValueError, match=r"cost = 'size', which not every child of .* has; all have activation"
    ):
        rerank(reranking(searched, by="pareto", cost="size"))


def test_a_study_that_lost_a_cell_too_often_goes_on_with_more_attempts(searched):
    config = reranking(searched, seeds=1, top=1)
    rerank(config)
    ledger = searched / "rerank" / "seed1" / "search.sqlite"
    (ledger.parent / "metrics.json").unlink()
    with contextlib.closing(sqlite3.connect(ledger)) as database, database:
        database.execute("UPDATE children SET status = 'queued', attempts = 5, reward = NULL")
        database.execute("DELETE FROM facts WHERE name = 'finished'")
    with pytest.raises(SearchPaused, match=r"start again with budget\.max_attempts above 5"):
        rerank(config)
    rerank(dataclasses.replace(config, budget=StudyBudgetConfig(max_attempts=6)))


def test_other_folders_are_refused(searched, tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no search"):
        rerank(reranking(tmp_path / "absent"))
    (searched / "config.yaml").write_text("backbone: {}\n")
    with pytest.raises(ValueError, match=r"config\.yaml: not the configuration of a search"):
        rerank(reranking(searched))


POINTS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12)


@given(POINTS)
def test_a_rank_is_the_longest_chain_of_points_that_beat_each_other(points):
    def beats(one, other):
        return one[0] >= other[0] and one[1] <= other[1] and one != other

    def chain(i):
        return max((1 + chain(j) for j in range(len(points)) if beats(points[j], points[i])), default=0)

    assert pareto_ranks(points) == [chain(i) for i in range(len(points))]


def test_kendalls_tau_of_orders_that_can_be_counted_by_hand():
    assert kendall_tau([1, 2, 3], [10, 20, 30]) == 1
    assert kendall_tau([1, 2, 3], [3, 2, 1]) == -1
    assert kendall_tau([1, 2, 3, 4], [1, 2, 4, 3]) == pytest.approx(4 / 6)
    assert kendall_tau([1, 1, 2], [1, 2, 3]) == pytest.approx(2 / (2 * 3) ** 0.5)  # one tie
    order = [*range(FEWEST)]
    found = agreement([(order, [*order[:-2], order[-1], order[-2]])], seed=0)
    assert found.low < found.tau < found.high == 1
    assert agreement([(order[:-1], order[:-1])], seed=0)[:3] == (1, None, None)
    assert agreement([([1.0, 2.0, 3.0], [1.0, 3.0, 2.0])], seed=0).spread == pytest.approx((1 / 2) ** 0.5)
    same = ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    both = agreement([same, ([1.0, 2.0, 3.0], [1.0, 3.0, 2.0])], seed=0)
    assert (both.tau, both.spread) == (pytest.approx((1 + 1 / 3) / 2), pytest.approx((1 / 4) ** 0.5))


def probing(run_dir, **settings):
    toy = toy_config("", 1)
    common = {"cells": 8, "data": ImageDataConfig(), "space": toy.space, "executor": InlineConfig()}
    chosen = {"child": ChildConfig(epochs=2), "evaluator": {"_target_": f"{__name__}.Noisy"}}
    return ProbeConfig(run_dir=str(run_dir), **{**common, **chosen, **settings})


class Broken:
    """Fails with every cell."""

    def __call__(self, genotype, task):
        return math.nan


def test_a_study_that_pauses_names_the_cell_and_no_budget(tmp_path):
    config = probing(tmp_path / "probe", cells=3, evaluator={"_target_": f"{__name__}.Broken"})
    first = r"short_seed0: 3 cells finished, none with a reward; cell 1 of 3: "
    with pytest.raises(SearchPaused, match=first) as error:
        probe(config)
    assert "budget" not in str(error.value)


class Learner:
    """Scores a cell by its key and the epochs; the key is what it becomes, the noise goes with the epochs."""

    def __init__(self, child, seed=0):
        self.epochs, self.seed = child["epochs"], seed

    def __call__(self, genotype, task):
        noise = task.seed % 1000 / 10_000 / self.epochs
        return (int(genotype.key, 16) % 1000 / 1000 + noise) * (1 - 0.5**self.epochs)


LEARNER = {"_target_": f"{__name__}.Learner", "child": "${child}", "seed": "${seed}"}


def _by_hand(folder):
    """tau, short against long and among the short ones, of the trainings in a probe with three seeds."""
    scores = []
    for name in RUNS:
        rows = {row.cell_key: row.reward for row in read_children(folder / name / "search.sqlite")}
        scores.append([reward for _, reward in sorted(rows.items())])
    *short, long = scores
    return {
        "proxy_tau": statistics.mean(kendall_tau(each, long) for each in short[:2]),
        "noise_tau": statistics.mean(kendall_tau(*pair) for pair in itertools.combinations(short, 2)),
    }


def test_a_probe_compares_short_and_long_training_with_the_noise(tmp_path, caplog):
    config = probing(tmp_path, evaluator=LEARNER, child=ChildConfig(epochs=4, lr=0.01), epochs=40, seeds=3)
    with caplog.at_level("INFO"):
        metrics = probe(config)["metrics"]
    assert 0.8 < metrics["noise_tau"] <= metrics["proxy_tau"] <= 1
    assert 0 < metrics["noise_spread"] < 0.1 < metrics["short_spread_of_cells"]
    stored = {name: yaml.safe_load((tmp_path / name / "config.yaml").read_text()) for name in RUNS}
    trained = [(each["child"]["epochs"], each["seed"]) for each in stored.values()]
    assert trained == [(4, 0), (4, 1), (4, 2), (40, 2)]
    expected = _by_hand(tmp_path)
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)
    begun = [line for line in caplog.messages if line.startswith("training ")]
    assert begun[0] == "training 1 of 4: 8 cells for 4 epochs with seed 0"
    assert begun[3] == "training 4 of 4: 8 cells for 40 epochs with seed 2"
    assert not [line for line in caplog.messages if "workers" in line]
    asked = composed(*typed(caplog.messages), cwd=tmp_path)
    for part in ("data", "space", "child", "executor", "objective"):
        assert asked[part] == plain(getattr(config, part))
    assert asked["evaluator"] == {**LEARNER, "child": asked["child"], "seed": 0}


RUNS = ("short_seed0", "short_seed1", "short_seed2", "long_seed2")


def test_a_probe_tells_that_longer_training_changed_nothing(tmp_path, caplog):
    with caplog.at_level("INFO"):
        probe(probing(tmp_path))  # Noisy does not look at the epochs
    assert "the longer training changed nothing" in caplog.messages[-1]
    assert "${child}" in caplog.messages[-1]


def test_a_probe_whose_cells_all_score_alike_tells_so(tmp_path, caplog):
    with caplog.at_level("INFO"):
        metrics = probe(probing(tmp_path, evaluator={"_target_": f"{__name__}.constant"}))["metrics"]
    assert json.loads((tmp_path / "metrics.json").read_text())["metrics"] == metrics
    assert [metrics[f"proxy_{name}"] for name in ("tau", "low", "high")] == [None] * 3
    assert "all cells score alike in the short and the longer training" in caplog.messages[-1]


def test_a_longer_training_that_is_none_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"epochs = 9, must be above child\.epochs = 9"):
        probing(tmp_path, child=ChildConfig(epochs=9), epochs=9)


def constant(genotype, task):
    return 0.1


def test_the_cost_in_an_objective_does_not_hide_that_cells_score_alike(tmp_path, caplog):
    objective = ObjectiveConfig(cost="parameters", target=1e4, exponent=-1)
    alike = probing(tmp_path, evaluator={"_target_": f"{__name__}.constant"}, objective=objective)
    with caplog.at_level("INFO"):
        metrics = probe(alike)["metrics"]
    assert (metrics["proxy_tau"], metrics["accuracy_proxy_tau"]) == (1, None)
    assert "all cells score alike" in caplog.messages[-1]


def test_a_probe_has_no_cell_twice(tmp_path):
    tiny = SpaceConfig(blocks=1, operations=["identity", "conv_1x1"], combinations=["add"])
    probe(probing(tmp_path, space=tiny, cells=40))
    rows = read_children(tmp_path / "long_seed1" / "search.sqlite")
    assert len({row.cell_key for row in rows}) == len(rows) == 40
    with pytest.raises(ValueError, match=r"cells = 500, but the space has hardly more than \d+"):
        probe(probing(tmp_path / "more", space=tiny, cells=500))


def test_a_rerank_keeps_its_cells_when_the_search_goes_on(searched, caplog):
    config = reranking(searched, seeds=1)
    rerank(config)
    first = json.loads((searched / "rerank" / "rerank.json").read_text())
    run(toy_config(searched, 80, evaluator={"_target_": f"{__name__}.Noisy"}))
    now = best_cells(scored(searched / "search.sqlite"), 4)
    assert {row.number for row in now} != {entry["child"] for entry in first}
    with caplog.at_level("WARNING"):
        rerank(config)
    assert "goes on with the 4 cells chosen when it began" in caplog.text
    assert json.loads((searched / "rerank" / "rerank.json").read_text()) == first
    by_key = {row.cell_key: row for row in read_children(searched / "rerank" / "seed1" / "search.sqlite")}
    rows = read_children(searched / "search.sqlite")
    for entry in first:
        assert entry["cell_key"] == rows[entry["child"]].cell_key
        assert entry["rewards"] == [by_key[entry["cell_key"]].reward]


def test_a_rerank_of_another_search_in_the_same_place_is_refused(searched):
    config = reranking(searched, seeds=1)
    rerank(config)
    chosen = json.loads((searched / "rerank" / "cells.json").read_text())
    for path in searched.iterdir():
        if path.is_file():
            path.unlink()
    (searched / "rerank").rename(searched.parent / "rerank")
    run(toy_config(searched, 12, evaluator={"_target_": f"{__name__}.Noisy"}, seed=7))
    with pytest.raises(ValueError, match=f"child {chosen[0]['child']} of .* is not the cell .* another one"):
        rerank(dataclasses.replace(config, run_dir=str(searched.parent / "rerank")))


def test_trainings_of_other_cells_are_refused(searched):
    config = reranking(searched, seeds=1)
    rerank(config)
    (searched / "rerank" / "cells.json").unlink()  # a folder of before there was this file
    run(toy_config(searched, 80, evaluator={"_target_": f"{__name__}.Noisy"}))
    with pytest.raises(ValueError, match="seed1 holds the training of other cells"):
        rerank(config)


def test_a_rerank_gives_the_evaluator_the_longer_children_and_its_seed(tmp_path, caplog):
    run(toy_config(tmp_path, 6, evaluator=LEARNER, child=ChildConfig(epochs=1)))
    assert "child: ${child}\n" in (tmp_path / "config.yaml").read_text()
    with caplog.at_level("INFO"):
        content = rerank(reranking(tmp_path, seeds=1, top=2, child=LongerConfig(epochs=9)))
    for entry in content["ranking"]:
        assert 1.7 < entry["reward"] / entry["searched"] < 2.3  # by factors 511 / 512 and 1 / 2
        assert entry["spread"] is None
    (told,) = [
        line for line in caplog.messages if line.startswith(f"child {content['ranking'][0]['child']}: ")
    ]
    assert " (1 seed); in the search " in told
    assert "training 1 of 1: 2 cells with seed 1" in caplog.messages


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


OBJECTIVE = ObjectiveConfig(cost="parameters", target=1e4, exponent=-1)


def test_a_rerank_measures_what_the_search_maximised(tmp_path, caplog):
    run(toy_config(tmp_path, 8, evaluator={"_target_": f"{__name__}.Noisy"}, objective=OBJECTIVE))
    with caplog.at_level("INFO"):
        content = rerank(reranking(tmp_path, seeds=2))
    (rows,) = [read_children(tmp_path / "rerank" / "seed1" / "search.sqlite")]
    assert all(row.reward == pytest.approx(row.accuracy * 1e4 / row.parameters) for row in rows)
    best = content["ranking"][0]
    assert best["reward"] == pytest.approx(
        best["accuracy"] * best["searched"] / best["searched_accuracy"], 0.1
    )
    (told,) = [line for line in caplog.messages if line.startswith(f"child {best['child']}: ")]
    then = f"in the search reward {best['searched']:.4g}, accuracy {best['searched_accuracy']:.4g}"
    assert told.endswith(f", accuracy {best['accuracy']:.4g}; {then}")
    assert "(mean over 2 seeds, standard deviation " in told


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


@pytest.mark.parametrize("command", [replay, status, report])
def test_the_searches_inside_a_folder_are_named(searched, command, capsys):
    rerank(reranking(searched, seeds=2))
    words = [str(searched / "rerank"), *(["0"] if command is replay else [])]
    try:
        assert command(words) == 1
        told = capsys.readouterr().err
    except SystemExit as end:
        told = str(end)
    inside = ", ".join(str(searched / "rerank" / name) for name in ("seed1", "seed2"))
    assert told.strip().endswith(f"holds no search, expected search.sqlite in it; there is one in {inside}")


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
