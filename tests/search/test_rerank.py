"""The best cells of a search, trained longer and with several seeds: `search.rerank`."""

import contextlib
import dataclasses
import json
import re
import sqlite3
import statistics
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from toy_search import DIGITS, TINY, evaluator, toy_config
from toy_studies import (
    LEARNER,
    OBJECTIVE,
    Noisy,
    composed,
    reranking,
    typed,
)

import conf
from backbones.genotype import Genotype
from classification.config import ImageDataConfig
from runtime.folder import plain
from search.children.config import ChildConfig
from search.choosing import best_cells, recorded_costs, scored
from search.command_words import SET_BY_CHOICE
from search.executors.config import InlineConfig
from search.ledger.reader import read_children
from search.messages import SearchPaused
from search.pareto import pareto_ranks
from search.replay import main as replay
from search.report import main as report
from search.reranking import rerank
from search.run import run
from search.status import main as status
from search.studies_config import LongerConfig, RerankConfig, StudyBudgetConfig


@pytest.fixture
def searched(tmp_path):
    run(toy_config(tmp_path / "search", 12, evaluator={"_target_": "toy_studies.Noisy"}))
    return tmp_path / "search"


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


def test_a_rerank_keeps_its_cells_when_the_search_goes_on(searched, caplog):
    config = reranking(searched, seeds=1)
    rerank(config)
    first = json.loads((searched / "rerank" / "rerank.json").read_text())
    run(toy_config(searched, 80, evaluator={"_target_": "toy_studies.Noisy"}))
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
    run(toy_config(searched, 12, evaluator={"_target_": "toy_studies.Noisy"}, seed=7))
    with pytest.raises(ValueError, match=f"child {chosen[0]['child']} of .* is not the cell .* another one"):
        rerank(dataclasses.replace(config, run_dir=str(searched.parent / "rerank")))


def test_trainings_of_other_cells_are_refused(searched):
    config = reranking(searched, seeds=1)
    rerank(config)
    (searched / "rerank" / "cells.json").unlink()  # a folder of before there was this file
    run(toy_config(searched, 80, evaluator={"_target_": "toy_studies.Noisy"}))
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


def test_a_rerank_measures_what_the_search_maximised(tmp_path, caplog):
    run(toy_config(tmp_path, 8, evaluator={"_target_": "toy_studies.Noisy"}, objective=OBJECTIVE))
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
