"""The laws of the search as a whole, on an analytic reward."""

import dataclasses

import pytest
from toy_search import Favourite, ScrambledConfig, evaluator, history, toy_config

from search.config import BudgetConfig
from search.ledger.digest import digest
from search.ledger.reader import LEDGER, read_children
from search.messages import Failure, SearchPaused
from search.run import run
from search.strategies.config import RandomConfig

CHILDREN = 30


@pytest.fixture(scope="module")
def unbroken_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    run(toy_config(folder, CHILDREN))
    return folder


@pytest.fixture(scope="module")
def unbroken(unbroken_folder):
    return history(unbroken_folder)


@pytest.fixture(scope="module")
def whole(unbroken_folder):
    """The digest of the unbroken search."""
    return digest(unbroken_folder / LEDGER)


@pytest.mark.parametrize("seed", range(4))
def test_order_of_finishing_changes_nothing(whole, tmp_path, seed):
    run(toy_config(tmp_path, CHILDREN, executor=ScrambledConfig(slots=1 + 3 * seed, seed=seed)))
    assert digest(tmp_path / LEDGER) == whole


def test_proposals_learn_from_what_is_virtually_finished_and_nothing_else(unbroken):
    for number, _, _, _, _, start, *_ in unbroken:
        earlier = [row for row in unbroken if row[0] < number]
        busy = [row for row in earlier if row[5] <= start < row[6]]
        assert len(busy) <= 4
    last_group, last_start = unbroken[-1][1], unbroken[-1][5]
    assert [row[9] for row in unbroken] == [row[1] < last_group and row[6] <= last_start for row in unbroken]


def test_proposals_with_one_virtual_start_are_one_group(unbroken):
    assert [row[1] for row in unbroken[:5]] == [0, 0, 0, 0, 1]
    assert unbroken[0][5] == 0
    starts = [{row[5] for row in unbroken if row[1] == group} for group in range(unbroken[-1][1] + 1)]
    assert all(len(start) == 1 for start in starts)


def test_duplicate_reuses_the_result_of_the_lowest_number_and_takes_as_long(unbroken):
    duplicates = [row for row in unbroken if row[7] is not None]
    assert duplicates
    for number, _, key, _, _, start, finish, original, _, _, reward, _ in duplicates:
        twins = [row for row in unbroken if row[2] == key]
        assert original == twins[0][0] < number
        assert finish == max(start, twins[0][6])
        assert reward == twins[0][10]


@pytest.mark.parametrize("first", [1, 3, 4, 11, 29])
def test_extended_budget_gives_what_the_larger_one_would_have(unbroken, whole, tmp_path, first):
    run(toy_config(tmp_path, first))
    assert history(tmp_path) == [
        (*row[:9], expected[9], *row[10:]) for row, expected in zip(unbroken, history(tmp_path), strict=False)
    ]
    content = run(toy_config(tmp_path, CHILDREN))
    assert content["metrics"]["children"] == CHILDREN
    assert digest(tmp_path / LEDGER) == whole


def test_interrupt_leaves_a_search_that_continues(whole, tmp_path, monkeypatch):
    score = Favourite.__call__

    def interrupted(self, genotype, task):
        if task.proposal.number == 9:
            raise KeyboardInterrupt
        return score(self, genotype, task)

    monkeypatch.setattr(Favourite, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(toy_config(tmp_path, CHILDREN))
    row = read_children(tmp_path / "search.sqlite")[9]
    assert (row.status, row.attempts) == ("queued", 0)
    monkeypatch.undo()
    run(toy_config(tmp_path, CHILDREN))
    assert digest(tmp_path / LEDGER) == whole


@pytest.mark.parametrize(
    ("failures", "attempts", "final"),
    [
        (["invalid"], 1, Failure.INVALID),
        (["not finite"], 1, Failure.NOT_FINITE),
        (["out of memory"], 2, None),  # it may have been the neighbour's
        (["out of memory", "out of memory"], 2, Failure.OUT_OF_MEMORY),
        (["crash", "timeout"], 2, Failure.TIMEOUT),
        (["host lost"], 2, None),
        (["crash", "host lost", "crash"], 3, Failure.CRASH),
    ],
)
def test_failure_is_final_only_when_it_is_the_childs_own(tmp_path, failures, attempts, final):
    run(toy_config(tmp_path, 4, evaluator=evaluator(failures={2: failures}), strategy=RandomConfig()))
    row = read_children(tmp_path / "search.sqlite")[2]
    assert (row.attempts, row.failure) == (attempts, final)
    assert (row.reward is None) == (final is not None)


def test_retried_children_change_nothing(whole, tmp_path):
    run(
        toy_config(
            tmp_path, CHILDREN, evaluator=evaluator(failures={1: ["crash"], 12: ["host lost", "timeout"]})
        )
    )
    assert digest(tmp_path / LEDGER) == whole


def test_child_that_keeps_losing_its_host_pauses_the_search(tmp_path):
    config = toy_config(
        tmp_path,
        6,
        evaluator=evaluator(failures={2: ["host lost"] * 3}),
        budget=BudgetConfig(children=6, max_attempts=3),
    )
    with pytest.raises(SearchPaused, match="child 2 was lost 3 times"):
        run(config)
    more = dataclasses.replace(config, budget=BudgetConfig(children=6, max_attempts=4))
    assert run(more)["metrics"]["failed"] == 0


def test_failures_with_a_success_between_them_do_not_pause_the_search(tmp_path):
    failed = {number: ["not finite"] for number in (0, 1, 3, 4, 6, 7)}
    budget = BudgetConfig(children=9, failures_in_a_row=3)
    config = toy_config(tmp_path, 9, evaluator=evaluator(failures=failed), budget=budget)
    assert run(dataclasses.replace(config, strategy=RandomConfig()))["metrics"]["failed"] == 6


def test_many_failures_in_a_row_pause_the_search(tmp_path):
    config = toy_config(
        tmp_path,
        20,
        evaluator=evaluator(failures={number: ["not finite"] for number in range(20)}),
        budget=BudgetConfig(children=20, failures_in_a_row=3),
    )
    with pytest.raises(
        SearchPaused,
        match=r"3 children in a row failed.*not finite: as ordered; .* budget\.failures_in_a_row above 3$",
    ):
        run(config)
    assert not (tmp_path / "genotype.json").exists()


def test_hours_cut_a_prefix(unbroken, whole, tmp_path, monkeypatch):
    now, trained, score = 0.0, [], Favourite.__call__

    def one_hour(self, genotype, task):
        nonlocal now
        now += 3600
        trained.append(task.proposal.number)
        return score(self, genotype, task)

    monkeypatch.setattr(Favourite, "__call__", one_hour)
    for hours in (4.5, 9.5):  # over both sittings together
        budget = BudgetConfig(children=CHILDREN, hours=hours)
        content = run(toy_config(tmp_path, CHILDREN, budget=budget), clock=lambda: now)
        assert len(trained) == hours + 0.5
        cut = history(tmp_path)
        assert content["metrics"]["children"] == sum(row[8] == "done" for row in cut)
        assert len(trained) <= content["metrics"]["children"] < CHILDREN
        assert [row[:8] for row in cut] == [row[:8] for row in unbroken[: len(cut)]]
        rewards = {row[0]: row[10] for row in unbroken}
        assert all(row[10] == rewards[row[0]] for row in cut if row[8] == "done")
    run(toy_config(tmp_path, CHILDREN))
    assert digest(tmp_path / LEDGER) == whole
