import sqlite3

import pytest
import torch

from search.ledger.reader import read_children
from search.ledger.rows import ChildRow
from search.ledger.writer import Ledger
from search.messages import Failure, Result
from search.space import Space
from search.strategies.protocol import State


def row(number, **settings):
    space = Space(blocks=1)
    decisions = space.sample(0, number)
    genotype = space.decode(decisions)
    return ChildRow(number, 0, genotype, genotype.key, decisions, -1.5, 10, 0, 10, **settings)


@pytest.fixture
def ledger(tmp_path):
    ledger = Ledger(tmp_path / "search.sqlite")
    yield ledger
    ledger.close()


STATE = State({"w": torch.tensor([1.0, 2.0]), "steps": torch.tensor(3)}, {"proposed": 2, "batch": [[1, 0.5]]})


def test_step_is_read_back_whole(ledger, tmp_path):
    ledger.step([], STATE, [row(0), row(1, original=0)], group=0)
    assert ledger.rows() == [row(0), row(1, original=0)]
    state = ledger.state()
    assert {name: tensor.tolist() for name, tensor in state.tensors.items()} == {"w": [1.0, 2.0], "steps": 3}
    assert state.values == STATE.values
    assert read_children(tmp_path / "search.sqlite") == ledger.rows()


def test_values_change_while_tensors_stay(ledger):
    ledger.step([], STATE, [], group=0)
    ledger.step([], State(STATE.tensors, {"proposed": 5}), [], group=1)
    assert ledger.state().values == {"proposed": 5}
    assert ledger.state().tensors["w"].tolist() == [1.0, 2.0]


def test_failed_step_leaves_nothing(ledger):
    ledger.step([], STATE, [row(0)], group=0)
    changed = State({"w": torch.zeros(1)}, {"proposed": 9})
    with pytest.raises(sqlite3.IntegrityError):
        ledger.step([0], changed, [row(1), row(1)], group=1)
    assert ledger.rows() == [row(0)]
    assert ledger.state().values == STATE.values


def test_outcome_is_recorded_with_its_duplicates(ledger):
    rows = [row(0), row(1, original=0)]
    ledger.step([], STATE, rows, group=0)
    ledger.begin(0)
    result = Result(rows[0].proposal, reward=0.75, curve=(0.5, 0.75), seconds=2.0, peak_bytes=7)
    for each in rows:
        each.finish_with(result)
    ledger.record(rows, {"seconds": 2.5})
    original, duplicate = ledger.rows()
    assert (original.status, original.attempts, original.reward, original.curve) == (
        "done",
        1,
        0.75,
        (0.5, 0.75),
    )
    assert (original.seconds, duplicate.seconds) == (2.0, 0.0)
    assert (duplicate.status, duplicate.attempts, duplicate.reward) == ("done", 0, 0.75)
    assert original.result == result
    assert ledger.fact("seconds") == 2.5


def test_failure_keeps_its_type_and_reason(ledger):
    child = row(0)
    ledger.step([], STATE, [child], group=0)
    child.finish_with(
        Result(child.proposal, failure=Failure.NOT_FINITE, detail="the loss was nan in epoch 3")
    )
    ledger.record([child], {})
    (found,) = ledger.rows()
    assert (found.failure, found.detail) == (Failure.NOT_FINITE, "the loss was nan in epoch 3")


def test_requeued_child_counts_its_attempt_unless_we_broke_it_off(ledger):
    ledger.step([], STATE, [row(0)], group=0)
    ledger.begin(0)
    ledger.requeue(0, alone=True, uncount=False, why="crash")
    ledger.begin(0)
    ledger.requeue(0, alone=True, uncount=True, why="interrupted")
    (found,) = ledger.rows()
    assert (found.status, found.attempts, found.alone) == ("queued", 1, True)


def test_ledger_is_read_while_it_is_written(ledger, tmp_path):
    ledger.step([], STATE, [row(0)], group=0)
    assert len(read_children(tmp_path / "search.sqlite")) == 1


def test_facts_are_remembered(ledger):
    ledger.remember({"search": "abc", "split": {"training": 9}})
    ledger.remember({"search": "def"})
    assert [ledger.fact(name) for name in ("search", "split", "absent")] == ["def", {"training": 9}, None]


def test_second_writer_is_refused(ledger, tmp_path):
    with pytest.raises(ValueError, match=r"search.sqlite: another process is running this search"):
        Ledger(tmp_path / "search.sqlite")


def test_newer_schema_is_refused_with_both_versions(tmp_path):
    path = tmp_path / "search.sqlite"
    Ledger(path).close()
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 7")
    database.close()
    for reader in (Ledger, read_children):
        with pytest.raises(ValueError, match=r"search.sqlite: schema version 7, this version reads 1"):
            reader(path)


def test_other_files_are_refused(tmp_path):
    other = tmp_path / "notes.sqlite"
    other.write_text("not a database at all, but long enough to look at")
    with pytest.raises(ValueError, match=r"notes.sqlite: not a search ledger"):
        read_children(other)
    with pytest.raises(FileNotFoundError, match=r"absent.sqlite: no such ledger"):
        read_children(tmp_path / "absent.sqlite")
