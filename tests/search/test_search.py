"""The laws of the search as a whole, on an analytic reward."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import toy_search
from toy_search import Favourite, ScrambledConfig, history, toy_config

from backbones.genotype import Genotype
from classification.config import ImageDataConfig
from search.clock import VirtualClock
from search.config import BudgetConfig
from search.ledger.reader import read_children
from search.ledger.writer import Ledger
from search.messages import Failure, SearchPaused
from search.run import run
from search.strategies.config import RandomConfig

CHILDREN = 30


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    run(toy_config(folder, CHILDREN))
    return history(folder)


def evaluator(**settings):
    return {"_target_": "toy_search.Favourite", **settings}


def test_search_writes_the_best_genotype_and_its_origin(tmp_path):
    content = run(toy_config(tmp_path, CHILDREN))
    rows = read_children(tmp_path / "search.sqlite")
    best = max(rows, key=lambda row: (row.reward or 0, -row.number))
    genotype = Genotype.load(tmp_path / "genotype.json")
    assert genotype == best.genotype
    assert genotype.origin["child"] == best.number
    assert genotype.origin["reward"] == best.reward == toy_search.reward(genotype)
    assert genotype.origin["seed"] == 0
    assert content == json.loads((tmp_path / "metrics.json").read_text())
    assert content["metrics"] == {
        "best_reward": best.reward,
        "mean_reward": pytest.approx(sum(row.reward or 0 for row in rows) / CHILDREN),
        "children": CHILDREN,
        "failed": 0,
    }


def test_finished_search_is_not_run_again(tmp_path):
    first = run(toy_config(tmp_path, 6))
    before = (tmp_path / "metrics.json").stat().st_mtime_ns
    assert run(toy_config(tmp_path, 6)) == first
    assert (tmp_path / "metrics.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("seed", range(4))
def test_order_of_finishing_changes_nothing(unbroken, tmp_path, seed):
    run(toy_config(tmp_path, CHILDREN, executor=ScrambledConfig(slots=1 + 3 * seed, seed=seed)))
    assert history(tmp_path) == unbroken


def test_proposals_learn_from_what_is_virtually_finished_and_nothing_else(unbroken):
    for number, _, _, _, _, start, *_ in unbroken:
        earlier = [row for row in unbroken if row[0] < number]
        busy = [row for row in earlier if row[5] <= start < row[6]]
        assert len(busy) <= 4
    last_group, last_start = unbroken[-1][1], unbroken[-1][5]
    assert [row[9] for row in unbroken] == [row[1] < last_group and row[6] <= last_start for row in unbroken]


def test_proposals_with_one_virtual_start_are_one_group(unbroken):
    assert [row[1] for row in unbroken[:5]] == [0, 0, 0, 0, 1]
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
def test_extended_budget_gives_what_the_larger_one_would_have(unbroken, tmp_path, first):
    run(toy_config(tmp_path, first))
    assert history(tmp_path) == [
        (*row[:9], expected[9], *row[10:]) for row, expected in zip(unbroken, history(tmp_path), strict=False)
    ]
    content = run(toy_config(tmp_path, CHILDREN))
    assert content["metrics"]["children"] == CHILDREN
    assert history(tmp_path) == unbroken


def test_search_killed_at_any_commit_continues_as_if_nothing_had_happened(unbroken, tmp_path, monkeypatch):
    left, transaction = 0, Ledger.transaction

    def dying(ledger):
        nonlocal left
        left -= 1
        if left < 0:
            raise SystemExit("power cut before the commit")
        return transaction(ledger)

    monkeypatch.setattr(Ledger, "transaction", dying)
    lives = 0
    while True:
        lives += 1
        left = 2 + lives
        try:
            run(toy_config(tmp_path, CHILDREN, budget=BudgetConfig(children=CHILDREN, max_attempts=50)))
            break
        except SystemExit:
            continue
    assert lives > 8
    assert history(tmp_path) == unbroken


def test_search_killed_outright_continues_as_if_nothing_had_happened(unbroken, tmp_path):
    program = (
        "from toy_search import toy_config\nfrom search.run import run\n"
        f"run(toy_config({str(tmp_path)!r}, {CHILDREN}, evaluator={evaluator(kill_at=7)!r}))"
    )
    paths = [str(Path(toy_search.__file__).parent), str(Path(__file__).parents[2])]
    code = f"import sys; sys.path[:0] = {paths!r}\n{program}"
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert killed.returncode == -9, killed.stderr.decode()
    assert len([row for row in read_children(tmp_path / "search.sqlite") if row.status == "done"]) == 7
    run(toy_config(tmp_path, CHILDREN, evaluator=evaluator(kill_at=7)))
    assert history(tmp_path) == unbroken
    assert read_children(tmp_path / "search.sqlite")[7].attempts == 2


def test_interrupt_leaves_a_search_that_continues(unbroken, tmp_path, monkeypatch):
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
    assert history(tmp_path) == unbroken


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


def test_retried_children_change_nothing(unbroken, tmp_path):
    run(
        toy_config(
            tmp_path, CHILDREN, evaluator=evaluator(failures={1: ["crash"], 12: ["host lost", "timeout"]})
        )
    )
    assert history(tmp_path) == unbroken


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


def test_many_failures_in_a_row_pause_the_search(tmp_path):
    config = toy_config(
        tmp_path,
        20,
        evaluator=evaluator(failures={number: ["not finite"] for number in range(20)}),
        budget=BudgetConfig(children=20, failures_in_a_row=3),
    )
    with pytest.raises(SearchPaused, match=r"3 children in a row failed.*not finite: as ordered"):
        run(config)
    assert not (tmp_path / "genotype.json").exists()


def test_hours_cut_a_prefix(unbroken, tmp_path, monkeypatch):
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
    assert history(tmp_path) == unbroken


def test_another_configuration_is_refused_in_the_same_folder(tmp_path):
    run(toy_config(tmp_path, 4))
    with pytest.raises(ValueError, match="window: 4 -> 5"):
        run(toy_config(tmp_path, 4, window=5))


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
    ],
)
def test_an_evaluator_is_refused_with_arguments_that_it_does_not_take(tmp_path, given, message):
    with pytest.raises(ValueError) as error:
        run(toy_config(tmp_path / "run", 3, evaluator=given))
    assert str(error.value) == message
    assert not (tmp_path / "run").exists()


def test_a_search_continues_where_its_images_have_moved(tmp_path):
    there = ImageDataConfig(name="cifar10", root="there", workers=2)
    run(toy_config(tmp_path, 4, data=there))
    here = dataclasses.replace(there, root="here", workers=0, download=True)
    assert run(toy_config(tmp_path, 6, data=here))["metrics"]["children"] == 6
    with pytest.raises(ValueError, match=r"data\.name: cifar10 -> digits"):
        run(toy_config(tmp_path, 6, data=ImageDataConfig(name="digits")))


def test_clock_frees_together_what_finishes_together():
    clock = VirtualClock(workers=3)
    for number, finish in enumerate((7, 5, 5)):
        clock.occupy(number, finish)
    assert (clock.free, clock.due()) == (0, [1, 2])
    clock.advance()
    assert (clock.now, clock.free, clock.busy()) == (5, 2, [0])
