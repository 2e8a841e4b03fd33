"""Milliseconds of a cell's network: how they are taken, predicted, limited and kept."""

import dataclasses
import fcntl
import itertools
import json
import sys
import threading
from contextlib import closing

import numpy as np
import pytest
from toy_search import DIGITS, TINY, toy_config

from backbones.config import BackboneConfig
from backbones.ranges import ConfigError
from runtime.cache import cache_folder
from search.children.evaluators import OpenTraining
from search.children.timed import OpenTimed
from search.choosing import best_cells, scored
from search.config import BudgetConfig, LimitsConfig, ObjectiveConfig
from search.executors.config import InlineConfig, ProcessConfig
from search.latency import kept, predictor
from search.latency.config import LatencyConfig
from search.latency.measure import Timing, check_engine, measure
from search.latency.network import target
from search.latency.passes import LEAST, MOST, interleaved
from search.latency.predictor import LatencyModel, costs_of, fitted
from search.ledger.reader import read_children, read_fact
from search.messages import ChildTask, Proposal
from search.reranking import rerank
from search.run import run
from search.space import Space
from search.studies_config import LongerConfig, RerankConfig, SizesConfig

SMALL = LatencyConfig(engine="torch", height=32, width=48, filters=8, calibration=8)
CELLS = [Space().decode(Space().sample(0, number)) for number in range(12)]


class Machine:
    """A clock, and programs that take scripted seconds; the last one of a script stays."""

    def __init__(self):
        self.now, self.order = 0.0, []

    def program(self, name, seconds):
        script = itertools.chain(seconds, itertools.repeat(seconds[-1]))

        def run_once():
            self.order.append(name)
            self.now += next(script)

        return run_once


def test_passes_go_over_all_programs_and_end_when_their_times_agree():
    machine = Machine()
    steady = machine.program("a", [9, 1])
    disturbed = machine.program("b", [9, 1, 1, 3, 2, 1.1, 1.05])
    passes = interleaved([steady, disturbed], clock=lambda: machine.now)
    assert passes == [[1000] * LEAST, [1000, 3000, 2000, pytest.approx(1100), pytest.approx(1050)]]
    assert machine.order == list("aabb" + "ab" * LEAST + "bb")


def test_passes_whose_times_never_agree_come_to_an_end():
    machine = Machine()
    (passes,) = interleaved([machine.program("a", [1.2**i for i in range(99)])], clock=lambda: machine.now)
    assert len(passes) == MOST
    assert not Timing(tuple(passes)).settled


def test_a_pass_of_a_short_program_is_its_fastest_run():
    machine = Machine()
    (passes,) = interleaved([machine.program("a", [0.1, 0.1, 0.5, 0.1])], clock=lambda: machine.now)
    assert passes == [pytest.approx(100)] * LEAST


@pytest.mark.slow
def test_a_wider_network_takes_longer_and_one_that_cannot_run_says_why():
    wide = LatencyConfig(engine="torch", height=32, width=48, filters=64)
    narrow, broad = (measure(CELLS[:2], config) for config in (SMALL, wide))
    for few, many in zip(narrow, broad, strict=True):
        assert 0 < few.milliseconds < many.milliseconds
        assert few.spread >= 0
        assert not few.error


def test_a_process_that_ends_early_is_an_error(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="the process that measures latencies ended: exit code 1"):
        measure(CELLS[:1], SMALL)


def test_one_measurement_waits_for_another_and_says_so(monkeypatch, caplog):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    failed = []

    def other():
        with pytest.raises(RuntimeError):
            measure(CELLS[:1], SMALL)
        failed.append(True)

    cache_folder().mkdir(parents=True, exist_ok=True)
    with (cache_folder() / "latency.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = threading.Thread(target=other)
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive()
        assert not failed
        assert "another measurement of latencies runs" in caplog.text
    waiting.join()
    assert failed


def test_the_model_finds_the_milliseconds_of_each_cost_and_none_below_zero():
    costs = [costs_of(cell, SMALL) for cell in CELLS]
    true = {name: (i + 1) / costs[0][name] for i, name in enumerate(costs[0])}
    times = [sum(true[name] * each[name] for name in true) for each in costs]
    model = fitted(CELLS, times, SMALL)
    assert model.milliseconds == pytest.approx(true, rel=1e-6)
    assert model.predict(CELLS[3], SMALL) == pytest.approx(times[3])
    noise = np.random.default_rng(0).uniform(0.1, 10, len(CELLS))
    assert min(fitted(CELLS, noise, SMALL).milliseconds.values()) >= 0


def test_the_timed_network_is_the_detectors_with_its_stem():
    backbone = BackboneConfig(name="cell.json", cells_per_stage=1, filters=8, stem_filters=16, image_size=48)
    config = dataclasses.replace(SMALL, stem_filters=16)
    assert target(CELLS[0].canonical(), config) == backbone.spec_of(CELLS[0].canonical())
    assert costs_of(CELLS[0], config)["multiply_adds"] < costs_of(CELLS[0], SMALL)["multiply_adds"]


def small_search(folder, children, **changes):
    settings = {"evaluator": None, "data": DIGITS, "child": TINY, "latency": SMALL, "window": 2}
    return toy_config(folder, children, **settings | changes)


def test_a_search_times_each_cell_once_and_keeps_it(tmp_path):
    objective = ObjectiveConfig(cost="latency_ms", target=5)
    config = small_search(tmp_path, 1, metric="latency_ms", objective=objective)
    run(config)
    (row,) = read_children(tmp_path / "search.sqlite")
    assert row.metrics["epochs"] == TINY.epochs
    assert row.reward == pytest.approx(row.accuracy * (row.costs["latency_ms"] / 5) ** objective.exponent)
    config.budget = BudgetConfig(children=2)
    run(config)
    first, second = read_children(tmp_path / "search.sqlite")
    assert first.metrics == row.metrics
    assert second.metrics["latency_ms"] not in (0, first.metrics["latency_ms"])


def test_cells_above_the_predicted_limit_are_rejected_by_a_model_that_is_made_once(tmp_path, monkeypatch):
    model = LatencyModel({"multiply_adds": 1.0, "activation_bytes": 0.0}, 8)
    monkeypatch.setattr(predictor, "measure", lambda cells, config, told: timed(cells, config))

    def timed(cells, config):
        return [Timing((model.predict(cell, config),) * 3) for cell in cells]

    first = small_search(tmp_path / "free", 8, evaluator={"_target_": "toy_search.score"})
    run(first)
    cells = [row.genotype for row in read_children(tmp_path / "free/search.sqlite")]
    limit = float(np.median([costs_of(cell, SMALL)["multiply_adds"] for cell in cells]))
    limited = small_search(
        tmp_path / "run", 8, evaluator={"_target_": "toy_search.score"}, limits=LimitsConfig(latency_ms=limit)
    )
    run(limited)
    rows = read_children(tmp_path / "run/search.sqlite")
    for row in rows:
        assert (row.failure == "rejected") == (costs_of(row.genotype, SMALL)["multiply_adds"] > limit)
    assert {row.failure for row in rows} == {None, "rejected"}
    assert read_fact(tmp_path / "run/search.sqlite", "latency_model")["cells"] == 8
    monkeypatch.setattr(predictor, "measure", None)  # as it would be measured again
    limited.budget = BudgetConfig(children=9)
    run(limited)


@pytest.mark.slow
def test_workers_share_images_and_time_cells_too():
    opener = OpenTimed(OpenTraining(DIGITS, TINY, 0), SMALL)
    cell = CELLS[0]
    with closing(ProcessConfig(workers=1).build(opener, "latency")) as executor:
        executor.submit(ChildTask(Proposal(0, cell, ()), 1))
        results = []
        while not results:
            results += executor.poll()
    assert results[0].metrics["latency_ms"] > 0
    assert (
        results[0].reward == OpenTraining(DIGITS, TINY, 0)()(cell, ChildTask(Proposal(0, cell, ()), 1)).reward
    )


def test_what_cannot_be_timed_is_refused_first(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"objective\.cost = latency_ms needs metric = latency_ms"):
        small_search(tmp_path, 1, objective=ObjectiveConfig(cost="latency_ms", target=5))
    with pytest.raises(ConfigError, match=r"metric = 'speed', expected one of latency_ms"):
        small_search(tmp_path, 1, metric="speed")
    with pytest.raises(ConfigError, match=r"filters = 10, but the imagenet stem .* a multiple of 4"):
        LatencyConfig(filters=10)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"latency\.engine = openvino needs onnx"):
        check_engine(LatencyConfig())


@pytest.fixture
def machine(monkeypatch):
    """Times that are known: of a network its million multiply-adds. Returns what was measured."""
    measured = []

    def times(cells, config, told):
        measured.extend(cells)
        return [Timing((costs_of(cell, config)["multiply_adds"] / 1e6,) * 3) for cell in cells]

    monkeypatch.setattr(predictor, "measure", times)
    monkeypatch.setattr(kept, "measure", times)
    return measured


def reranking(folder, **settings):
    child = LongerConfig(epochs=None)
    given = {"by": "pareto", "cost": "latency_ms", "top": 3, "seeds": 1, "child": child}
    return RerankConfig(
        dir=str(folder), run_dir=str(folder / "rerank"), executor=InlineConfig(), **given | settings
    )


def test_a_rerank_trains_and_times_each_cell_at_each_size_and_marks_the_front(tmp_path, machine, caplog):
    run(small_search(tmp_path, 8, evaluator={"_target_": "toy_search.score"}))
    sizes = SizesConfig(filters=[8, 16], cells_per_stage=[1, 2])
    with caplog.at_level("INFO"):
        rerank(reranking(tmp_path, sizes=sizes))
    ranking = json.loads((tmp_path / "rerank/rerank.json").read_text())
    children = {row.number: row.genotype for row in read_children(tmp_path / "search.sqlite")}
    assert len(ranking) == 3 * 4
    for entry in ranking:
        config = dataclasses.replace(
            SMALL, filters=entry["filters"], cells_per_stage=entry["cells_per_stage"]
        )
        assert entry["latency_ms"] == costs_of(children[entry["child"]], config)["multiply_adds"] / 1e6
        better = [
            other
            for other in ranking
            if other["accuracy"] >= entry["accuracy"]
            and other["latency_ms"] <= entry["latency_ms"]
            and (other["accuracy"], other["latency_ms"]) != (entry["accuracy"], entry["latency_ms"])
        ]
        assert entry["front"] == (not better)
    trained = read_children(tmp_path / "rerank/cells_per_stage2_filters16_seed1/search.sqlite")
    assert {row.cell_key for row in trained} == {entry["cell_key"] for entry in ranking}
    assert "accuracy against milliseconds, the front:" in caplog.text
    assert f"backbone.filters={ranking[0]['filters']}" in caplog.text
    machine.clear()
    (tmp_path / "rerank/metrics.json").unlink()  # as after a kill
    rerank(reranking(tmp_path, sizes=sizes))
    assert machine == []


def test_cells_are_chosen_by_predicted_milliseconds_where_none_were_measured(tmp_path, machine):
    run(small_search(tmp_path, 12, evaluator={"_target_": "toy_search.score"}))
    rerank(reranking(tmp_path))
    rows = scored(tmp_path / "search.sqlite")
    costs = [costs_of(row.genotype, SMALL)["multiply_adds"] for row in rows]
    best = {row.number for row in best_cells(rows, 3, costs)}
    chosen = json.loads((tmp_path / "rerank/cells.json").read_text())
    assert {each["child"] for each in chosen} == best
    assert best != {row.number for row in best_cells(rows, 3)}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sizes": {"filters": []}}, r"filters = \[\], expected some numbers, none twice"),
        ({"sizes": {"filters": [8, 8]}}, r"filters = \[8, 8\], expected some numbers, none twice"),
        ({"sizes": {"cells_per_stage": [0]}}, r"cells_per_stage = 0, must be at least 1"),
        ({"sizes": {"filters": [10]}}, r"sizes\.filters = 10, but the imagenet stem .* a multiple of 4"),
        (
            {"sizes": {"filters": [8]}, "child": {"filters": 4}},
            r"child\.filters and sizes\.filters are both set",
        ),
    ],
)
def test_sizes_that_no_network_has_are_refused(tmp_path, settings, message):
    run(small_search(tmp_path, 1, evaluator={"_target_": "toy_search.score"}))
    with pytest.raises(ConfigError, match=message):
        rerank(
            reranking(
                tmp_path,
                sizes=SizesConfig(**settings["sizes"]),
                child=LongerConfig(epochs=None, **settings.get("child", {})),
            )
        )
