"""What the loop tells its executor, its ledger and its user."""

import dataclasses
import json
from collections import Counter
from contextlib import closing

import pytest
from toy_search import FAVOURITE, Favourite, Opens, ScrambledConfig

from runtime.random import derive
from search.admission import Admission
from search.budget import Budget
from search.clock import VirtualClock
from search.config import BudgetConfig, LimitsConfig
from search.executors.config import InlineConfig
from search.ledger.reader import connect
from search.ledger.writer import Ledger
from search.loop import Search
from search.messages import Cost, Failure
from search.progress import Progress
from search.space import Space
from search.strategies.config import RandomConfig

SPACE = Space(1, (FAVOURITE, "conv_1x1"), ("add",))


@pytest.fixture
def ledger(tmp_path):
    with closing(Ledger(tmp_path / "search.sqlite")) as ledger:
        yield ledger


@pytest.fixture
def searched(ledger):
    """Runs a random search with seed 3; returns the rows of its children and the tasks as they were run."""

    def search(failures=None, executor=None, children=14, space=SPACE, limits=None):
        evaluator = Favourite(failures)
        search = Search(
            ledger,
            RandomConfig().build(space, 3),
            (executor or InlineConfig()).build(Opens(evaluator), "search"),
            Admission(evaluator.cost, limits or LimitsConfig()),
            seed=3,
            window=4,
            budget=Budget(BudgetConfig(children=children), 0.0, lambda: 0.0),
        )
        search.run()
        return search.rows, evaluator.seen

    return search


@pytest.mark.parametrize(
    ("failures", "expected"),
    [
        ([], [(0, False)]),
        (["not finite"], [(0, False)]),
        (["crash"], [(0, False), (1, True)]),
        (["host lost"], [(0, False), (1, False)]),
        (["timeout", "host lost", "out of memory"], [(0, False), (1, True), (2, True)]),
    ],
)
def test_child_that_failed_beside_others_is_repeated_alone(searched, failures, expected):
    rows, seen = searched({2: failures})
    assert [(task.attempt, task.alone) for task in seen if task.proposal.number == 2] == expected
    assert rows[2].attempts == len(expected)


def test_seed_of_a_child_follows_from_the_search_and_the_cell_alone(searched):
    rows, seen = searched({2: ["crash"], 5: ["host lost"]}, ScrambledConfig(slots=2))
    assert len(seen) == len([row for row in rows if row.original is None]) + 2
    for task in seen:
        assert task.seed == derive(3, "child", task.proposal.genotype.key)


def test_duplicate_is_never_run_and_shares_the_failure_of_its_original(searched, capsys):
    rows, seen = searched({5: ["not finite"]})
    assert "search 14/14," in capsys.readouterr().err
    assert {row.number: row.original for row in rows if row.original is not None} == {6: 5, 12: 11}
    assert sorted(task.proposal.number for task in seen) == [*range(6), *range(7, 12), 13]
    assert rows[6].failure is rows[5].failure is Failure.NOT_FINITE
    assert (rows[6].status, rows[6].attempts, rows[6].detail) == ("done", 0, "as ordered")
    assert rows[12].reward == rows[11].reward is not None


def test_duplicates_of_a_cell_name_its_first_child_and_end_with_it(searched, capsys):
    rows, _ = searched(space=Space(1, (FAVOURITE,), ("add",)), children=30)
    for row in rows:
        first = next(each for each in rows if each.cell_key == row.cell_key)
        assert row.original == (None if row is first else first.number)
        assert (row.status, row.reward) == ("done", 1.0)
    assert max(Counter(row.cell_key for row in rows).values()) > 2
    assert "search 30/30," in capsys.readouterr().err


def test_interrupt_cancels_what_runs(ledger):
    def interrupted(genotype, task):
        raise KeyboardInterrupt

    executor = ScrambledConfig(slots=4, seed=1).build(Opens(interrupted), "search")
    budget = Budget(BudgetConfig(children=4), 0.0, lambda: 0.0)
    strategy = RandomConfig().build(SPACE, 3)
    admission = Admission(lambda genotype: Cost(1, 1, 1, 1), LimitsConfig())
    search = Search(ledger, strategy, executor, admission, seed=3, window=4, budget=budget)
    with pytest.raises(KeyboardInterrupt):
        search.run()
    assert executor.capacity() == 4
    assert [(row.status, row.attempts) for row in ledger.rows()] == [("queued", 0)] * 4


def test_figures_do_not_depend_on_the_order_of_finishing(searched):
    rows, _ = searched(children=4)
    rewards = [0.1, 0.2, 0.3, 0.0]
    expected = {"best": 0.3, "mean": 0.15, "mean_last_100": 0.15}
    assert 0.1 + 0.2 + 0.3 != 0.3 + 0.2 + 0.1  # in the last digit
    for order in ((0, 1, 2, 3), (3, 2, 1, 0), (1, 3, 0, 2)):
        progress = Progress([], 4)
        assert progress.figures() == {}
        for number in order:
            progress.add(dataclasses.replace(rows[number], reward=rewards[number]))
        progress.add(dataclasses.replace(rows[0], number=9, reward=None))
        assert (progress.figures(), progress.done) == (expected, 5)


def test_events_say_when_a_search_started_and_why_a_child_was_repeated(searched, tmp_path):
    searched({2: ["crash"], 5: ["host lost"]})
    with closing(connect(tmp_path / "search.sqlite", read_only=True)) as database:
        found = database.execute("SELECT kind, detail FROM events").fetchall()
    budget = {
        "children": 14,
        "hours": None,
        "max_attempts": 5,
        "failures_in_a_row": 20,
        "rejections_in_a_row": 1000,
    }
    assert [(kind, json.loads(detail)) for kind, detail in found] == [
        ("started", {"done": 0, "budget": budget}),
        ("requeued", {"child": 2, "alone": True, "why": "crash: as ordered"}),
        ("requeued", {"child": 5, "alone": False, "why": "host lost: as ordered"}),
    ]


def test_child_of_a_process_that_ended_is_queued_again_and_its_attempt_counts(searched, ledger, tmp_path):
    rows, _ = searched(children=4)
    lost = dataclasses.replace(rows[2], status="queued", reward=None)
    lost.begin()
    ledger.save([lost])
    rows, seen = searched(children=4)
    assert [(task.proposal.number, task.attempt, task.alone) for task in seen] == [(2, 2, False)]
    assert (rows[2].status, rows[2].attempts) == ("done", 3)
    with closing(connect(tmp_path / "search.sqlite", read_only=True)) as database:
        ((detail,),) = database.execute("SELECT detail FROM events WHERE kind = 'requeued'").fetchall()
    assert json.loads(detail) == {"child": 2, "alone": False, "why": "the process that ran it ended"}


def test_clock_frees_together_what_finishes_together():
    clock = VirtualClock(workers=3)
    assert (clock.now, clock.free) == (0, 3)
    for number, finish in enumerate((7, 5, 5)):
        clock.occupy(number, finish)
    assert (clock.free, clock.due()) == (0, [1, 2])
    assert clock.advance() == [1, 2]
    assert (clock.now, clock.free, clock.due()) == (5, 2, [0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"children": 0}, "children = 0, must be at least 1"),
        ({"failures_in_a_row": 0}, "failures_in_a_row = 0, must be at least 1"),
        ({"max_attempts": 1}, "max_attempts = 1, must be at least 2"),
        ({"hours": 0.0}, "hours = 0.0, must be above 0, or null"),
    ],
)
def test_budget_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        BudgetConfig(**settings)
