"""Who scores children: our training, or a callable of the user's."""

import dataclasses
import sqlite3
from contextlib import closing

import numpy as np
import pytest
import torch
from toy_search import Favourite, toy_config

from search.children.config import ChildConfig
from search.children.cost import predicted_cost
from search.config import BudgetConfig, LimitsConfig, ObjectiveConfig
from search.ledger.reader import read_children
from search.messages import ChildFailed, Failure, Result, SearchPaused
from search.run import run


def test_children_cost_what_their_evaluator_predicts(tmp_path):
    run(toy_config(tmp_path, 3))
    for row in read_children(tmp_path / "search.sqlite"):
        assert row.cost == row.finish - row.start == Favourite().predicted_microseconds(row.genotype)


def test_children_cost_their_training_where_the_evaluator_predicts_nothing(tmp_path):
    child = ChildConfig(filters=4, epochs=3)
    run(toy_config(tmp_path, 3, evaluator={"_target_": "toy_search.score"}, child=child))
    for row in read_children(tmp_path / "search.sqlite"):
        cost = predicted_cost(row.genotype, child, images=1)
        counts = row.parameters, row.multiply_adds, row.activation_bytes
        assert (row.cost, *counts, None) == dataclasses.astuple(cost)


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


class Moody:
    def __init__(self, mode, years):
        raise ValueError("expected one of glad, grim")


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
        (
            {"_target_": f"{__name__}.Moody", "mode": "sad", "years": 3},
            f"evaluator: {__name__}.Moody cannot be made with mode = 'sad', years = 3: ValueError: expected "
            "one of glad, grim; HYDRA_FULL_ERROR=1 shows where",
        ),
        (
            {"_target_": "search.table.recorded.Recorded", "noise": "a"},
            "evaluator.noise = 'a', must be a number, at least 0",
        ),
        (
            {"_target_": "search.table.recorded.Recorded", "model": "oracle"},
            "evaluator.model = 'oracle', expected one of gaussian, ridge, trees, boosting",
        ),
    ],
)
def test_an_evaluator_is_refused_with_arguments_that_it_does_not_take(tmp_path, given, message):
    with pytest.raises(ValueError) as error:
        run(toy_config(tmp_path / "run", 3, evaluator=given))
    assert str(error.value) == message
    assert not (tmp_path / "run").exists()


class Returns:
    """Gives children what is asked for, in turn."""

    reward_range = (0.0, 1.0)
    values: list = []

    def __call__(self, genotype, task):
        value = self.values[task.proposal.number % len(self.values)]
        return value(task.proposal) if callable(value) else value


def returned(tmp_path, *values, children=None, **changes):
    """The rows of a search whose children return `values` in turn."""
    Returns.values = list(values)
    target = {"_target_": f"{__name__}.Returns"}
    changes = {"budget": BudgetConfig(children=children or len(values), failures_in_a_row=99)} | changes
    run(toy_config(tmp_path, 1, evaluator=target, **changes))
    return [row for row in read_children(tmp_path / "search.sqlite") if row.original is None]


def quits(proposal):
    raise SystemExit("bye")


def closes(proposal):
    raise GeneratorExit


def fails_with_odd_text(proposal):
    raise ValueError("half a pair \ud800, a bell \a" + 10_000 * "x")


class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError


def fails_without_words(proposal):
    raise Unspeakable


def fails_as_text(proposal):
    raise ChildFailed("not finite", torch.tensor(3))


def fails_of_no_kind(proposal):
    raise ChildFailed("tired", "why")


GOOD = [
    (0.5, 0.5),
    (np.float32(0.5), 0.5),
    (torch.tensor(0.25, requires_grad=True), 0.25),
    (lambda proposal: Result(proposal, reward=np.float64(0.75), curve=[torch.tensor([0.5])]), 0.75),
    (
        lambda proposal: Result(proposal, reward=0.5, metrics={"latency": np.int64(3)}, seconds=np.int8(2)),
        0.5,
    ),
    (lambda proposal: Result(proposal, reward=0.5, peak_bytes=10**30), 0.5),
]
BAD = [
    (float("nan"), Failure.NOT_FINITE, "the evaluator returned reward = nan"),
    (torch.tensor(float("inf")), Failure.NOT_FINITE, "the evaluator returned reward = inf"),
    (
        lambda proposal: Result(proposal, reward=0.5, metrics={"x": float("nan")}),
        Failure.NOT_FINITE,
        "metrics",
    ),
    (lambda proposal: Result(proposal, reward=0.5, curve=[float("nan")]), Failure.NOT_FINITE, "curve[0]"),
    (lambda proposal: Result(proposal, failure="not finite", detail="own"), Failure.NOT_FINITE, "own"),
    (fails_as_text, Failure.NOT_FINITE, "tensor(3)"),
    (1.5, Failure.INVALID, "reward = 1.5, must be in 0.0..1.0, as the evaluator declares"),
    ("0.5", Failure.INVALID, "reward is '0.5', expected a number"),
    (True, Failure.INVALID, "reward is True, expected a number"),
    (None, Failure.INVALID, "TypeError: the evaluator returned None, expected a number or a Result"),
    ([0.5, 0.25], Failure.INVALID, "reward is [0.5, 0.25], expected a number"),
    (np.ones(3), Failure.INVALID, "expected a number"),
    (torch.ones(2), Failure.INVALID, "expected a number"),
    (torch.tensor(1j), Failure.INVALID, "reward is tensor(0.+1.j), expected a number"),
    (
        lambda proposal: Result(proposal, reward=0.5, seconds=-3),
        Failure.INVALID,
        "seconds = -3, must be at least 0",
    ),
    (lambda proposal: Result(proposal), Failure.INVALID, ": a result has either a reward or a failure"),
    (
        lambda proposal: Result(proposal, reward=0.5, failure=Failure.CRASH),
        Failure.INVALID,
        ": a result has either a reward or a failure",
    ),
    (lambda proposal: Result(proposal, failure="tired"), Failure.INVALID, "'tired' is not a valid Failure"),
    (fails_of_no_kind, Failure.INVALID, "'tired' is not a valid Failure, expected one of rejected, "),
    (lambda proposal: proposal.absent, Failure.INVALID, "AttributeError: "),
    (lambda proposal: proposal + 1, Failure.INVALID, "TypeError: unsupported operand"),
    (quits, Failure.CRASH, "SystemExit: bye"),
    (closes, Failure.CRASH, "GeneratorExit"),
    (fails_with_odd_text, Failure.CRASH, "ValueError: half a pair"),
    (fails_without_words, Failure.CRASH, "Unspeakable"),
]


def test_what_an_evaluator_returns_becomes_numbers_or_a_typed_failure(tmp_path):
    values = [value for value, *_ in (*GOOD, *BAD)]
    rows = returned(tmp_path, *values, children=3 * len(values))
    assert {row.number % len(values) for row in rows} == set(range(len(values)))  # no case was a duplicate
    for row in rows:
        _, *expected = (*GOOD, *BAD)[row.number % len(values)]
        if len(expected) == 1:
            assert (row.reward, row.failure, type(row.reward)) == (*expected, None, float)
        else:
            assert (row.reward, row.failure) == (None, expected[0])
            assert expected[1] in row.detail
            assert len(row.detail) <= 2_000
            assert row.detail.isprintable()
            # Only what another run may cure has one.
            assert row.attempts == (2 if row.failure is Failure.CRASH else 1)


def test_every_attempt_is_recorded_with_its_process_and_capability(tmp_path):
    rows = returned(tmp_path, 0.5, quits, children=4)
    with closing(sqlite3.connect(tmp_path / "search.sqlite")) as database:
        found = database.execute("SELECT child, outcome, capability, torch FROM attempts").fetchall()
    here = torch.backends.cpu.get_cpu_capability(), torch.__version__
    expected = [
        (row.number, outcome, *here)
        for row in rows
        for outcome in (["done"] if row.number % 2 == 0 else ["crash", "crash"])
    ]
    assert sorted(found) == sorted(expected)


def test_cells_above_a_limit_are_rejected_before_they_run(tmp_path):
    limits = LimitsConfig(multiply_adds=1_000_000)
    rows = returned(tmp_path, 0.5, children=40, limits=limits, child=ChildConfig(filters=4))
    rejected = [row for row in rows if row.failure is Failure.REJECTED]
    assert 0 < len(rejected) < len(rows)
    for row in rows:
        assert (row in rejected) == (row.multiply_adds > 1_000_000)
    for row in rejected:
        assert (row.cost, row.attempts, row.status) == (0, 0, "done")
        assert f"{row.multiply_adds:,} are over limits.multiply_adds = 1,000,000" in row.detail


def test_limits_that_leave_nothing_pause_the_search(tmp_path):
    budget = BudgetConfig(children=40, rejections_in_a_row=7)
    with pytest.raises(SearchPaused, match="the last 8 proposals cost more than limits allow"):
        returned(tmp_path, 0.5, limits=LimitsConfig(parameters=1), budget=budget)
    assert len(read_children(tmp_path / "search.sqlite")) == 8  # two groups of four


def test_a_costly_child_earns_less(tmp_path):
    objective = ObjectiveConfig(cost="multiply_adds", target=1e6, exponent=-0.5)
    rows = returned(tmp_path, 0.8, children=9, objective=objective, child=ChildConfig(filters=4))
    assert len({row.multiply_adds for row in rows}) > 1
    for row in rows:
        assert row.reward == pytest.approx(0.8 * (row.multiply_adds / 1e6) ** -0.5)
        assert row.accuracy == 0.8


def test_the_cost_of_an_objective_may_be_a_metric_and_must_be_there(tmp_path):
    def measured(proposal):
        return Result(proposal, reward=0.8, metrics={"latency": 20.0})

    objective = ObjectiveConfig(cost="latency", target=10.0, exponent=-1.0)
    rows = returned(tmp_path, measured, 0.5, children=12, objective=objective)
    assert {row.reward for row in rows if row.number % 2 == 0} == {0.4}
    failed = [row for row in rows if row.number % 2]
    assert {row.failure for row in failed} == {Failure.INVALID}
    assert "objective.cost = 'latency' is not among its metrics: parameters, " in failed[0].detail
