"""What the user is told before the first child, and the figures while a search runs."""

import csv
import dataclasses
import logging
import re
from statistics import fmean, mean

import pytest
import torch
from toy_search import DIGITS, TINY, evaluator, toy_config

from backbones.network import NASNet
from runtime.config import LoggerConfig
from search.children.calibration import real_per_predicted
from search.children.config import ChildConfig
from search.children.cost import predicted_cost
from search.children.evaluators import OpenTraining
from search.config import BudgetConfig
from search.estimate import Pace
from search.ledger.reader import LEDGER, read_children
from search.ledger.rows import ChildRow
from search.plan import announce
from search.progress import Progress
from search.run import run
from search.space import Space
from search.strategies.config import RandomConfig

CHILD = ChildConfig(image_size=8, filters=4, cells_per_stage=1, epochs=3, device="cpu")


def told(caplog, config, pace, workers, open_evaluator=None):
    """The lines; the children that wait are five random ones for 100 images."""
    space, rows = Space(), []
    for number in range(5):
        genotype = space.decode(space.sample(0, number))
        cost = predicted_cost(genotype, CHILD, images=100).microseconds
        pace.enter(cost, runs=True)
        rows.append(ChildRow(number, 0, genotype, genotype.key, (), None, cost, 0, cost))
    with caplog.at_level(logging.INFO, "search.plan"):
        announce(config, open_evaluator, rows, pace, workers)
    return [record.getMessage() for record in caplog.records if record.name == "search.plan"], rows


def test_time_before_the_first_child_comes_from_timed_steps(tmp_path, caplog):
    config = toy_config(tmp_path, 1000, evaluator=None, child=CHILD)
    state, pace = torch.random.get_rng_state(), Pace(1000)
    lines, rows = told(caplog, config, pace, 2, OpenTraining(None, CHILD, 0))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert pace.factor > 0
    typical = sorted(rows, key=lambda row: row.cost)[2]
    message = "1000 children to run: about (.*) on 2 workers, (about .*|less than a second) per child"
    how = rf"An estimate from \d timed steps? of child {typical.number} on this machine"
    assert re.fullmatch(rf"{message}\. {how}", lines[0]), lines[0]
    seconds = pace.factor * fmean(row.cost for row in rows) / 1e6
    assert pace.seconds_left(2) == pytest.approx(1000 * seconds / 2)
    assert re.search(rf"disk: about 7 MB in {tmp_path}$", lines[1])
    keys = "budget.children (1000), child.epochs (3), child.filters (4), child.cells_per_stage (1)"
    assert (keys in lines[-1]) is (pace.seconds_left(2) > 3600)


def test_timed_steps_compute_as_those_of_the_children(monkeypatch):
    forward, seen = NASNet.forward, []

    def watched(network, images):
        seen.append((torch.is_autocast_enabled("cpu"), images.is_contiguous()))
        return forward(network, images)

    monkeypatch.setattr(NASNet, "forward", watched)
    space = Space(blocks=1)
    for precision, channels_last, found in (
        ("bf16-mixed", False, (True, True)),
        ("32-true", True, (False, False)),
    ):
        child = dataclasses.replace(CHILD, precision=precision, channels_last=channels_last, batch_size=2)
        real_per_predicted(space.decode(space.sample(0, 0)), child)
        assert set(seen) == {found}
        seen.clear()


def test_time_of_a_search_that_goes_on_comes_from_its_children(tmp_path, caplog):
    pace = Pace(20)
    pace.enter(1_000_000, runs=True)
    pace.finish(1_000_000, 100_000.0)
    budget = BudgetConfig(children=20, hours=2)
    lines, _ = told(caplog, toy_config(tmp_path, 20, evaluator=None, child=CHILD, budget=budget), pace, 1)
    assert pace.factor == 100_000
    assert lines[0].startswith("19 children to run: about ")
    assert lines[0].endswith("An estimate from the children so far; budget.hours = 2 ends it before")
    assert "child.epochs (3)" in lines[-1]


def test_time_of_an_unknown_evaluator_is_not_guessed(tmp_path, caplog):
    lines, _ = told(caplog, toy_config(tmp_path, 20), Pace(20), 3)
    assert lines[0] == "20 children to run on 3 workers; how long one takes is known when the first has ended"
    assert len(lines) == 2


def test_memory_of_a_child_in_this_process_counts_what_the_process_holds(tmp_path, caplog):
    child, images = dataclasses.replace(TINY, epochs=1), b"\1" * 500_000_000
    with caplog.at_level(logging.INFO, "search.plan"):
        run(toy_config(tmp_path, 3, evaluator=None, data=DIGITS, child=child, strategy=RandomConfig()))
    told = re.search(r"memory: up to (\S+) GB per child, 1 at a time", caplog.text)
    recorded = max(row.peak_bytes for row in read_children(tmp_path / LEDGER)) / 1e9
    assert recorded > len(images) / 1e9
    assert 1 / 1.3 < float(told[1]) / recorded < 1.3


def test_logged_figures(tmp_path):
    failures = {number: ["not finite"] for number in range(3)}
    logger, strategy = LoggerConfig(name="csv"), RandomConfig()
    config = toy_config(tmp_path, 110, evaluator=evaluator(failures=failures), logger=logger)
    run(dataclasses.replace(config, strategy=strategy))
    with (tmp_path / "metrics.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    rows = read_children(tmp_path / LEDGER)
    names = ["step", "child", "seconds", "best", "mean", "mean_last_100", "entropy"]
    assert set(table[-1]) == {*names, "reward", "duplicates", "rejected", "failed"}
    assert table[0]["failed"] == "1.0"
    assert table[0]["reward"] == table[0]["best"] == ""
    assert float(table[-1]["entropy"]) == pytest.approx(Space.of(config.space).entropy)
    # The same rows in another order give the same figures.
    progress = Progress([], 110)
    for row in rows:
        progress.enter(row)
    for row in reversed(rows):
        progress.add(row)
    rewards = [row.reward for row in rows if row.reward is not None]
    assert len(rewards) > 100
    assert progress.figures() == {
        "best": max(rewards),
        "mean": mean(rewards),
        "mean_last_100": pytest.approx(mean(rewards[-100:])),
        "entropy": pytest.approx(-mean(row.log_prob for row in rows[-100:])),
    }
    failed, duplicates = len(rows) - len(rewards), sum(row.original is not None for row in rows)
    assert progress.counts() == {"duplicates": duplicates, "rejected": 0, "failed": failed}
    assert failed >= 3
    assert duplicates > 0
