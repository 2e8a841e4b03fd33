"""Cells that are trained again: `search.rerank`, `search.probe`, `search.replay`."""

import json
import shlex

import pytest
from commands import run_here
from hypothesis import given
from hypothesis import strategies as st
from toy_search import evaluator, toy_config

from backbones.genotype import Genotype
from classification.config import ImageDataConfig
from search.children.config import ChildConfig
from search.executors.config import InlineConfig
from search.ledger.reader import read_children
from search.messages import Result
from search.pareto import pareto_ranks
from search.rank_agreement import agreement, kendall_tau
from search.replay import main as replay
from search.run import run
from search.studies import best_cells, probe, rerank
from search.studies_config import LongerConfig, ProbeConfig, RerankConfig


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
    assert "epochs: 7" in (searched / "rerank" / "seed2" / "config.yaml").read_text()


def test_the_next_command_is_one_that_can_be_typed(searched, caplog, tmp_path):
    with caplog.at_level("INFO"):
        rerank(reranking(searched))
    (line,) = [record.getMessage() for record in caplog.records if record.message.startswith("next: ")]
    words = shlex.split(line.removeprefix("next: python -m ").replace("data=…", "data=digits"))
    done = run_here(*words, "--cfg", "job", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"name: {searched}/rerank/genotype.json" in done.stdout


def test_what_was_trained_is_not_trained_again(searched):
    content = rerank(reranking(searched))
    Noisy.calls = 0
    (searched / "rerank" / "seed1" / "metrics.json").unlink()  # as after a kill
    assert rerank(reranking(searched)) == content
    assert Noisy.calls == 0
    with pytest.raises(ValueError, match="top: 4 -> 3"):
        rerank(reranking(searched, top=3))


def test_the_pareto_front_comes_first(searched):
    rows = best_cells(searched / "search.sqlite", 99, "pareto", "latency")
    ranks = pareto_ranks([(row.accuracy, row.metrics["latency"]) for row in rows])
    assert ranks == sorted(ranks)
    with pytest.raises(
        ValueError, match=r"cost = 'size', which not every child of .* has; all have activation"
    ):
        rerank(reranking(searched, by="pareto", cost="size"))


def test_other_folders_are_refused(searched, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such ledger"):
        rerank(reranking(tmp_path))
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
    found = agreement([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 6, 5], seed=0)
    assert found.low < found.tau < found.high == 1
    assert agreement([1.0, 2.0, 3.0], [1.0, 3.0, 2.0], seed=0).spread == pytest.approx((1 / 2) ** 0.5)


def test_a_probe_compares_short_and_long_training_with_the_noise(tmp_path):
    toy = toy_config("", 1)
    config = ProbeConfig(
        run_dir=str(tmp_path),
        cells=8,
        data=ImageDataConfig(),
        space=toy.space,
        child=ChildConfig(epochs=2),
        evaluator={"_target_": f"{__name__}.Noisy"},
        executor=InlineConfig(),
    )
    metrics = probe(config)["metrics"]
    assert metrics["proxy_tau"] == 1  # the same seed, and this evaluator does not look at the epochs
    assert 0.9 < metrics["noise_tau"] <= 1
    assert 0 < metrics["noise_spread"] < 0.01 < metrics["short_spread_of_cells"]
    assert "epochs: 100" in (tmp_path / "long" / "config.yaml").read_text()


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
