"""Short against longer training of random cells: `search.probe`."""

import itertools
import json
import statistics

import pytest
import yaml
from toy_studies import (
    LEARNER,
    composed,
    probing,
    typed,
)

from backbones.ranges import ConfigError
from runtime.folder import plain
from search.children.config import ChildConfig
from search.config import ObjectiveConfig, SpaceConfig
from search.ledger.reader import read_children
from search.messages import SearchPaused
from search.probing import probe
from search.rank_agreement import FEWEST, agreement, kendall_tau


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


def test_a_study_that_pauses_names_the_cell_and_no_budget(tmp_path):
    config = probing(tmp_path / "probe", cells=3, evaluator={"_target_": "toy_studies.Broken"})
    first = r"short_seed0: 3 cells finished, none with a reward; cell 1 of 3: "
    with pytest.raises(SearchPaused, match=first) as error:
        probe(config)
    assert "budget" not in str(error.value)


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
        metrics = probe(probing(tmp_path, evaluator={"_target_": "toy_studies.constant"}))["metrics"]
    assert json.loads((tmp_path / "metrics.json").read_text())["metrics"] == metrics
    assert [metrics[f"proxy_{name}"] for name in ("tau", "low", "high")] == [None] * 3
    assert "all cells score alike in the short and the longer training" in caplog.messages[-1]


def test_a_longer_training_that_is_none_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"epochs = 9, must be above child\.epochs = 9"):
        probing(tmp_path, child=ChildConfig(epochs=9), epochs=9)


def test_the_cost_in_an_objective_does_not_hide_that_cells_score_alike(tmp_path, caplog):
    objective = ObjectiveConfig(cost="parameters", target=1e4, exponent=-1)
    alike = probing(tmp_path, evaluator={"_target_": "toy_studies.constant"}, objective=objective)
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
