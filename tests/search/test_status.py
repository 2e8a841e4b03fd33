"""What a status shows of a ledger, while a search runs and afterwards; the estimates of its time."""

import csv
import itertools
import json
import logging
import shlex
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from toy_search import Favourite, ScrambledConfig, evaluator, toy_config

from search import commands
from search.config import BudgetConfig, LimitsConfig
from search.estimate import Pace, duration
from search.history import History
from search.ledger.located import located
from search.ledger.reader import LEDGER, read_children
from search.ledger.writer import Ledger
from search.messages import SearchPaused
from search.run import run
from search.snapshot import Snapshot
from search.status import main

FAILURES = {number: ["not finite"] for number in range(8)}


def shown(capsys, *words):
    assert main([str(word) for word in words]) == 0
    return [line.split() for line in capsys.readouterr().out.splitlines()]


def line(lines, name):
    return " ".join(next(words for words in lines if words[:1] == [name])[1:])


def test_status_of_a_finished_search(tmp_path, capsys):
    run(toy_config(tmp_path / "free", 40))
    sizes = sorted(row.parameters for row in read_children(tmp_path / "free" / LEDGER))
    limits = LimitsConfig(parameters=sizes[36])
    tmp_path = tmp_path / "limited"
    run(toy_config(tmp_path, 40, evaluator=evaluator(failures=FAILURES), limits=limits))
    rows = read_children(tmp_path / LEDGER)
    lines = shown(capsys, tmp_path)
    assert line(lines, "search") == f"{tmp_path} (finished)"
    assert line(lines, "children") == "40 of 40 done, 0 running, 0 queued, 0 to be proposed"
    kinds = [row.failure for row in rows]
    duplicates, rejected = sum(row.original is not None for row in rows), kinds.count("rejected")
    failed = sum(kind in ("not finite", "crash") for kind in kinds)
    assert min(duplicates, rejected, failed) > 0
    counts = line(lines, "of")
    assert counts.startswith(f"them {duplicates} duplicate")
    assert f"{rejected} rejected, {failed} failed" in counts
    best = max((row for row in rows if row.reward is not None), key=lambda row: (row.reward, -row.number))
    assert line(lines, "reward").startswith(f"best {best.reward:.4g} (child {best.number}), mean of the last")
    listed = next(i for i, words in enumerate(lines) if words[:2] == ["best", "cells"])
    assert lines[listed + 2][:3] == [str(best.number), f"{best.reward:.4f}", best.cell_key]
    assert any("budget.children=80" in words for words in lines)


def test_status_of_a_search_that_runs_and_of_one_that_is_paused(tmp_path, capsys, monkeypatch):
    seen = []

    def looks(self, genotype, task):
        if task.proposal.number == 4:
            seen.append(shown(capsys, tmp_path))
            raise KeyboardInterrupt
        return Favourite.honest(self, genotype, task)

    Favourite.honest = Favourite.__call__
    monkeypatch.setattr(Favourite, "__call__", looks)
    with pytest.raises(KeyboardInterrupt):
        run(toy_config(tmp_path, 9))
    del Favourite.honest
    paused = shown(capsys, tmp_path)
    running = seen[0]
    assert "(running: process" in line(running, "search")
    rows = read_children(tmp_path / LEDGER)
    done = sum(row.status == "done" for row in rows)
    assert (
        line(running, "children") == f"{done} of 9 done, 1 running, 3 queued, {9 - done - 4} to be proposed"
    )
    assert line(running, "time") == "less than a second so far, ETA less than a second"
    assert f"mean of the last {done}: " in line(running, "reward")
    assert ["4", "less", "than", "a", "second"] in [words[:5] for words in running]
    assert line(paused, "search") == f"{tmp_path} (paused)"
    assert line(paused, "children") == f"{done} of 9 done, 0 running, 4 queued, {9 - done - 4} to be proposed"
    assert "1 interrupted" in line(paused, "attempts")


def test_table_of_children_has_every_column(tmp_path, capsys):
    run(toy_config(tmp_path, 5, evaluator=evaluator(failures={2: ["not finite"]})))
    file = tmp_path / "children.csv"
    assert shown(capsys, tmp_path, "--csv", file) == [[str(file)]]
    with file.open(newline="") as text:
        table = list(csv.DictReader(text))
    rows = read_children(tmp_path / LEDGER)
    assert [int(each["number"]) for each in table] == [0, 1, 2, 3, 4]
    for row, each in zip(rows, table, strict=True):
        assert each["reward"] == ("" if row.reward is None else repr(row.reward))
        assert json.loads(each["decisions"]) == list(row.decisions)
        assert json.loads(each["genotype"]) == row.genotype.to_dict()
        assert each["failure"] == (row.failure or "")


def test_watching_shows_a_search_that_goes_on(tmp_path):
    run(toy_config(tmp_path, 4))
    command = [sys.executable, "-m", "search.status", str(tmp_path), "--watch"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watching:
        time.sleep(1)
        run(toy_config(tmp_path, 7, executor=ScrambledConfig()))
        time.sleep(4)
        watching.send_signal(2)
        out, _ = watching.communicate(timeout=20)
    assert watching.returncode == 0
    assert "7 of 7 done" in out


def test_what_holds_no_search_is_refused(tmp_path, capsys):
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"{tmp_path}: holds no search, expected {LEDGER} in it\n"
    (tmp_path / LEDGER).write_text("not a ledger, but long enough to look at")
    assert main([str(tmp_path)]) == 1
    assert "not a search ledger, or damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0.4, "less than a second"), (12.3, "12 s"), (59.6, "1 min"), (200, "3 min 20 s"), (3600, "1 h")),
        *((7500, "2 h 5 min"), (86400 * 3 + 3600 * 4 + 1700, "3 d 4 h"), (86399, "24 h")),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_time_left_follows_the_real_seconds():
    pace = Pace(10)
    for cost in (2_000_000, 2_000_000, 1_000_000):
        pace.enter(cost, runs=True)
    pace.enter(0, runs=False)  # a duplicate
    assert (pace.seconds_left(1), pace.left) == (None, 9)
    pace.guess(3.0)
    # Three wait, 5 s as predicted; six are to come, of 5 / 4 s on average.
    assert pace.seconds_left(2) == pytest.approx(3 * (5 + 6 * 5 / 4) / 2)
    pace.finish(2_000_000, 20.0)
    assert (pace.factor, pace.left) == (10.0, 8)
    assert pace.seconds_left(2, [(2_000_000, 6.0)]) == pytest.approx((30 - 6 + 10 * 6 * 5 / 4) / 2)
    # Expected to take 20 s and running for 40 already: all the others will take twice as long, too.
    assert pace.seconds_left(2, [(2_000_000, 40.0)]) == pytest.approx((60 - 40 + 20 * 6 * 5 / 4) / 2)
    # Of two, one is stuck: what it has had above its own share is no part of the time of the others.
    running = [(2_000_000, 59.0), (1_000_000, 1.0)]
    assert pace.seconds_left(2, running) == pytest.approx((60 - 40 - 1 + 20 * 6 * 5 / 4) / 2)


def test_budget_is_that_of_the_newest_start(tmp_path):
    run(toy_config(tmp_path, 4))
    run(toy_config(tmp_path, 6, budget=BudgetConfig(children=6)))
    snapshot = Snapshot.read(Path(tmp_path) / LEDGER)
    assert (snapshot.budget, snapshot.left_open) == (6, False)


def test_a_search_killed_before_its_first_proposal_is_paused(tmp_path, capsys):
    run(toy_config(tmp_path, 4))
    with closing(Ledger(tmp_path / LEDGER)) as ledger, ledger.transaction() as database:
        for table in ("attempts", "events", "children"):
            database.execute(f"DELETE FROM {table}")
        database.execute("DELETE FROM facts WHERE name = 'finished'")
    (tmp_path / "metrics.json").unlink()
    assert Snapshot.read(tmp_path / LEDGER).spent is None
    assert main([str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "(paused)" in said
    assert "budget.children=0" not in said


def told(lines, start):
    """The line that starts so."""
    return next(" ".join(words) for words in lines if " ".join(words).startswith(start))


def test_a_search_whose_time_is_over_is_finished(tmp_path, capsys, caplog):
    """It needs more hours, not more children."""
    ticks = itertools.count()
    budget = BudgetConfig(children=50, hours=0.01)
    with caplog.at_level(logging.INFO):
        run(toy_config(tmp_path, 50, budget=budget), clock=lambda: float(next(ticks)))
    assert "a larger budget.hours" in caplog.messages[-1]
    lines = shown(capsys, tmp_path)
    done = Snapshot.read(tmp_path / LEDGER).count("done")
    assert 0 < done < 50
    assert line(lines, "search").startswith(f"{tmp_path} (finished: budget.hours = 0.01 is")  # may be wrapped
    assert line(lines, "children").startswith(f"{done} of 50 done")
    assert "ETA" not in line(lines, "time")
    assert told(lines, "To extend it").startswith("To extend it, add budget.hours=0.02 to its command")


def test_a_search_in_which_all_children_failed_says_what_to_change(tmp_path, capsys):
    failures = {number: ["not finite"] for number in range(6)}
    with pytest.raises(SearchPaused) as caught:
        run(toy_config(tmp_path, 6, evaluator=evaluator(failures=failures)))
    said = str(caught.value)
    assert "larger budget.children, or in a new run_dir change evaluator" in said
    lines = shown(capsys, tmp_path)
    assert line(lines, "search") == f"{tmp_path} (ended without a reward)"
    assert "ETA" not in line(lines, "time")
    assert not [words for words in lines if words[:2] == ["This", "continues"]]
    why = told(lines, "Nothing is left to run")
    assert why.endswith("no child has a reward: not finite 6; child 0: as ordered")
    assert told(lines, "The same command").endswith("in a new run_dir: evaluator")
    assert told(lines, "To go on").startswith("To go on with other cells, add budget.children=12")


def test_a_search_that_writes_elsewhere_is_shown_while_it_runs(tmp_path, capsys, monkeypatch):
    seen = []

    def looks(self, genotype, task):
        (live,) = (tmp_path / "disk").glob("*.sqlite")
        seen.append([shown(capsys, place) for place in (tmp_path / "run", live)])
        with monkeypatch.context() as patch:
            patch.setattr(socket, "gethostname", lambda: "another")
            lines, (note,) = shown(capsys, tmp_path / "run"), History.read(located(tmp_path / "run")).notes
        assert told(lines, "read from") == f"read from a copy; the ledger itself is {host}:{live}"
        assert note.endswith(f"is a copy; the ledger itself is {host}:{live}")
        return honest(self, genotype, task)

    honest, host = Favourite.__call__, socket.gethostname()
    monkeypatch.setattr(Favourite, "__call__", looks)
    run(toy_config(tmp_path / "run", 7, ledger=str(tmp_path / "disk")))
    for lines in seen[-1]:
        assert line(lines, "search").startswith(f"{tmp_path / 'run'} (running: process")
        assert int(line(lines, "children").split()[0]) > 3
        assert not [words for words in lines if words[:2] == ["read", "from"]]


def test_a_copy_whose_ledger_is_gone_is_read_and_told(tmp_path, capsys, monkeypatch):
    run_dir, disk = tmp_path / "run", tmp_path / "disk"

    def stops(self, genotype, task):
        raise KeyboardInterrupt

    monkeypatch.setattr(Favourite, "__call__", stops)
    with pytest.raises(KeyboardInterrupt):
        run(toy_config(run_dir, 7, ledger=str(disk)))
    (live,) = disk.glob("*.sqlite")
    assert not [words for words in shown(capsys, run_dir) if words[:2] == ["read", "from"]]
    live.unlink()
    lines, (note,) = shown(capsys, run_dir), History.read(located(run_dir)).notes
    assert told(lines, "read from") == f"read from a copy; the ledger itself is {live}, which is gone"
    assert note == f"{run_dir / LEDGER} is a copy; the ledger itself is {live}, which is gone"


@pytest.mark.parametrize("name", ["my search", "x=1,y=2"])
def test_commands_can_be_pasted_whatever_the_folder_is_called(tmp_path, capsys, caplog, name):
    folder = tmp_path / name
    with caplog.at_level(logging.INFO):
        run(toy_config(folder, 4))
    (folder / "command.txt").write_text("python -m search budget.children=4 data=digits\n")
    assert main([str(folder)]) == 0
    said = capsys.readouterr().out
    assert f"python -m search.report {shlex.quote(str(folder))}\n" in said
    begins = ("train the best cells longer: ", "To extend it, add budget.children=8 to its command: ")
    rerank, extend = (
        shlex.split(next(x for x in said.splitlines() if x.startswith(b))[len(b) :]) for b in begins
    )
    parsed = OverridesParser.create().parse_overrides([*rerank[3:], *extend[3:]])
    given = {each.key_or_group: each.value() for each in parsed}
    folders = {"dir": str(folder), "run_dir": str(folder)}
    assert given == {**folders, "top": 25, "data": "digits", "budget.children": 8}
    logged = next(x for x in caplog.messages if x.startswith(begins[0]))
    assert shlex.split(logged[len(begins[0]) :]) == rerank
    assert [x for x in caplog.messages if x.startswith("report: ")] == [
        f"report: python -m search.report {shlex.quote(str(folder))}"
    ]


@pytest.mark.parametrize(
    ("command", "continued"),
    [
        ("python -m pipeline seed=1", "run_dir={}/a search.budget.children=8"),
        ("celltransfer search run_dir=b", "budget.children=8"),
        ("python -m search.rerank dir=c top=3", "run_dir={}/a"),
        ("python -m search -m seed=1,2", ""),
        ("my-own-script", ""),
    ],
)
def test_what_continues_a_search_follows_the_command_that_began_it(tmp_path, command, continued):
    folder = tmp_path / "a" / "search"
    folder.mkdir(parents=True)
    (folder / "command.txt").write_text(f"{command}\n")
    assert commands.again(folder, children=8) == f"{command} {continued.format(tmp_path)}".strip()
