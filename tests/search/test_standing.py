"""Why a search does not run, as another process reads it afterwards."""

import itertools
import json
import os
import re
import signal
from contextlib import closing

import pytest
from fault_points import in_fork
from toy_search import DIGITS, TINY, Favourite, evaluator, toy_config

from backbones.genotype import Genotype
from search.children.config import ChildConfig
from search.commands import cures
from search.config import BudgetConfig, LimitsConfig
from search.ledger.reader import LEDGER, read_children
from search.ledger.rows import ENDED
from search.ledger.writer import Ledger
from search.messages import ChildTask, Failure, SearchPaused
from search.report import write_report
from search.run import run
from search.standing import NO_WORD
from search.status import main
from search.strategies.config import RandomConfig


def told(folder, capsys):
    """The first lines of a status by their names, and all of it."""
    assert main([str(folder)]) == 0
    text = capsys.readouterr().out
    whole = re.sub(r" *\n {4,}", " ", text)  # of lines that the table wrapped
    pairs = (line.partition("  ") for line in whole.splitlines())
    return {name: value.strip() for name, _, value in pairs if name}, text


def at_child(number, act):
    """Does something when a child runs."""

    class Acts(Favourite):
        def __call__(self, genotype: Genotype, task: ChildTask):
            if task.proposal.number == number:
                act()
            return super().__call__(genotype, task)

    return Acts.__call__


def interrupt():
    raise KeyboardInterrupt


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def test_paused_by_ctrl_c(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Favourite, "__call__", at_child(4, interrupt))
    with pytest.raises(KeyboardInterrupt):
        run(toy_config(tmp_path, 9))
    lines, _ = told(tmp_path, capsys)
    assert (lines["search"], lines["why"]) == (f"{tmp_path} (paused)", "Ctrl-C or SIGTERM")
    assert "paused: Ctrl-C or SIGTERM" in write_report([tmp_path]).read_text()


def test_paused_by_what_the_search_met(tmp_path, capsys):
    """The reason is what was raised where it ran; a next start forgets it."""
    several = {"failures_in_a_row": 3, "rejections_in_a_row": 8}
    failing = evaluator(failures={number: ["not finite"] for number in range(3, 6)})
    sizes = {"fails": {"evaluator": failing}, "rejected": {"limits": LimitsConfig(parameters=1)}}
    said = {}
    for name, changes in sizes.items():
        folder = tmp_path / name
        with pytest.raises(SearchPaused) as caught:
            run(toy_config(folder, 40, budget=BudgetConfig(children=40, **several), **changes))
        lines, _ = told(folder, capsys)
        assert lines["search"] == f"{folder} (paused)"
        assert lines["why"] == str(caught.value)
        said[name] = lines["why"]
    assert said["fails"].startswith("3 children in a row failed, the last one, child ")
    assert said["rejected"].startswith("the last 8 proposals cost more than limits allow")
    run(toy_config(tmp_path / "fails", 40, evaluator=failing))
    lines, _ = told(tmp_path / "fails", capsys)
    assert lines["search"] == f"{tmp_path / 'fails'} (finished)"
    assert "why" not in lines


def test_killed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Favourite, "__call__", at_child(4, kill))
    folder = tmp_path / "run"
    assert in_fork(lambda: run(toy_config(folder, 9)), tmp_path / "log") == -signal.SIGKILL
    lines, text = told(folder, capsys)
    assert lines["search"] == f"{folder} (killed)"
    assert lines["why"] == f"{NO_WORD}; 1 child that ran when it was killed will begin again"
    done = sum(row.status == "done" for row in read_children(folder / LEDGER))
    assert lines["children"].startswith(f"{done} of 9 done, 0 running, 1 broken off, ")
    assert lines["attempts"].endswith("1 broken off")
    assert "\nThis continues it: " in text
    assert "killed: no process runs it" in write_report([folder]).read_text()
    (folder / "config.yaml").write_text("executor: {name: ray}\n")
    assert told(folder, capsys)[0]["why"].endswith("may go on in the cluster, else will begin again")


def test_ledger_of_an_older_version_says_no_reason(tmp_path, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Favourite, "__call__", at_child(4, interrupt))
        with pytest.raises(KeyboardInterrupt):
            run(toy_config(tmp_path, 9))
    with closing(Ledger(tmp_path / LEDGER)) as ledger, ledger.transaction() as database:
        database.execute("DELETE FROM facts WHERE name = ?", [ENDED])
    lines, _ = told(tmp_path, capsys)
    assert lines["search"] == f"{tmp_path} (paused)"
    assert "why" not in lines


def test_hours_that_were_over_before_a_child_was_done(tmp_path, capsys):
    """More hours are needed, not other cells."""
    ticks = itertools.count(step=100)
    budget = BudgetConfig(children=50, hours=0.01)
    with pytest.raises(SearchPaused) as caught:
        run(toy_config(tmp_path, 50, budget=budget), clock=lambda: float(next(ticks)))
    assert str(caught.value).endswith(
        "budget.hours = 0.01 was spent before a child was done; continue with a larger budget.hours"
    )
    lines, text = told(tmp_path, capsys)
    assert lines["search"] == f"{tmp_path} (ended without a reward)"
    assert lines["why"] == "budget.hours = 0.01 was spent"
    assert "\nNo child was done in this time. To go on, add budget.hours=1" in text
    assert "other cells" not in text


def test_children_that_stop_below_ended_are_counted(tmp_path, capsys):
    child = ChildConfig(**{**vars(TINY), "epochs": 3, "stop_below": {1: 0.999}})
    config = toy_config(
        tmp_path, 3, evaluator=None, data=DIGITS, child=child, strategy=RandomConfig(), window=1
    )
    run(config)
    ended = [row for row in read_children(tmp_path / LEDGER) if row.original is None and len(row.curve) == 1]
    assert len(ended) == 3
    assert "stopped 3" in capsys.readouterr().err
    assert told(tmp_path, capsys)[0]["stopped"] == "3 children by child.stop_below"
    assert "ended by stop_below" in write_report([tmp_path]).read_text()


@pytest.mark.parametrize(
    ("evaluator", "executor", "kinds", "keys"),
    [
        (None, {}, ["not finite", "crash"], "child.lr, child.clip_norm; child, data"),
        (
            None,
            {"timeout_seconds": 9},
            ["timeout"],
            "child.timeout_seconds, child.epochs, executor.timeout_seconds",
        ),
        ({"_target_": "a.b"}, {}, ["not finite", "crash", "out of memory", "rejected"], "evaluator; limits"),
        (
            {"_target_": "a.b", "child": "${child}"},
            {},
            ["not finite"],
            "evaluator, child.lr, child.clip_norm",
        ),
        (
            {"_target_": "a.b", "of": {"n": "${child.epochs}"}},
            {},
            ["timeout", "not finite"],
            "evaluator, child.epochs; evaluator",
        ),
        ({"_target_": "a.b", "n": "${child.epochs}"}, {}, ["crash"], "evaluator, child"),
    ],
)
def test_advice_names_keys_that_the_search_reads(evaluator, executor, kinds, keys):
    config = json.loads(json.dumps({"evaluator": evaluator, "executor": executor, "child": {"lr": 1}}))
    assert cures(map(Failure, kinds), config) == keys
