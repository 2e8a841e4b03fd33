import dataclasses
import json
import os
import sqlite3
import time
from contextlib import closing

import pytest
import torch
from safetensors.torch import save as save_tensors

from search.ledger.located import located
from search.ledger.reader import connect, read_children, read_fact, read_rows
from search.ledger.rows import ChildRow, columns_of
from search.ledger.writer import Ledger
from search.messages import Failure, Result, Site
from search.snapshot import Snapshot
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
    ledger.step([row(0), row(1, original=0)], STATE, group=0)
    assert ledger.rows() == [row(0), row(1, original=0)]
    state = ledger.state()
    assert {name: tensor.tolist() for name, tensor in state.tensors.items()} == {"w": [1.0, 2.0], "steps": 3}
    assert state.values == STATE.values
    assert read_children(tmp_path / "search.sqlite") == ledger.rows()


def test_log_probabilities_of_decisions_are_read_back_bit_by_bit(ledger):
    log_probs = tuple(torch.linspace(-80, -1e-7, 50).log_softmax(0).tolist())
    ledger.step([row(0, log_probs=log_probs), row(1)], STATE, group=0)
    assert [each.proposal.log_probs for each in ledger.rows()] == [log_probs, None]


def test_values_change_while_tensors_stay(ledger):
    ledger.step([], STATE, group=0)
    ledger.step([], State(STATE.tensors, {"proposed": 5}), group=1)
    assert ledger.state().values == {"proposed": 5}
    assert ledger.state().tensors["w"].tolist() == [1.0, 2.0]


def test_newest_state_counts(ledger):
    ledger.step([], STATE, group=0)
    ledger.step([], State({"w": torch.tensor([5.0])}, {"proposed": 5}), group=1)
    tensors, values = ledger.state()
    assert {name: tensor.tolist() for name, tensor in tensors.items()} == {"w": [5.0]}
    assert values == {"proposed": 5}


def test_failed_step_leaves_nothing(ledger):
    ledger.step([row(0)], STATE, group=0)
    changed = State({"w": torch.zeros(1)}, {"proposed": 9})
    with pytest.raises(sqlite3.IntegrityError):
        ledger.step([row(0, observed=True), row(1), row(2, status="lost")], changed, group=1)
    assert ledger.rows() == [row(0)]
    assert ledger.state().values == STATE.values


def test_outcome_is_recorded_with_its_duplicates(ledger):
    rows = [row(0), row(1, original=0)]
    ledger.step(rows, STATE, group=0)
    rows[0].begin()
    result = Result(rows[0].proposal, reward=0.75, curve=(0.5, 0.75), seconds=2.0, peak_bytes=7)
    for each in rows:
        each.finish_with(result)
    ledger.save(rows, facts={"seconds": 2.5})
    assert ledger.rows() == rows
    original, duplicate = rows
    assert (original.status, original.attempts, original.reward, original.curve) == (
        "done",
        1,
        0.75,
        (0.5, 0.75),
    )
    assert (original.seconds, duplicate.seconds) == (2.0, 0.0)
    assert (duplicate.status, duplicate.attempts, duplicate.reward) == ("done", 0, 0.75)
    assert original.consume() == result
    assert original.observed
    assert ledger.fact("seconds") == 2.5


def test_attempts_say_where_they_ran_and_how_they_ended(ledger, tmp_path):
    site = Site("host", "node", 7, "cpu", "2.14", "AVX2")
    ledger.save([row(0), row(1)], begun=[0, 1])
    ledger.save([row(0)], ended=[(0, "interrupted", None)])
    ledger.save([row(0)], begun=[0])
    ledger.save([row(0)], ended=[(0, "done", site)])
    with closing(connect(tmp_path / "search.sqlite", read_only=True)) as database:
        found = database.execute(
            "SELECT child, outcome, host, pid, capability, begun <= ended FROM attempts ORDER BY id"
        ).fetchall()
    assert found == [
        (0, "interrupted", None, None, None, 1),
        (1, None, None, None, None, None),
        (0, "done", "host", 7, "AVX2", 1),
    ]


def test_failure_keeps_its_type_and_reason(ledger):
    child = row(0)
    child.finish_with(
        Result(child.proposal, failure=Failure.NOT_FINITE, detail="the loss was nan in epoch 3")
    )
    ledger.save([child])
    (found,) = ledger.rows()
    assert found.failure is Failure.NOT_FINITE
    assert found.detail == "the loss was nan in epoch 3"


def test_what_is_fixed_when_a_child_is_proposed_never_changes(ledger):
    ledger.save([row(0)])
    late = dataclasses.replace(row(0), finish=99, decisions=(1,), original=7, status="running", attempts=1)
    ledger.save([late])
    assert ledger.rows() == [row(0, status="running", attempts=1)]


def test_attempt_is_counted_when_it_begins_unless_we_broke_it_off():
    child = row(0)
    child.begin()
    assert (child.status, child.attempts) == ("running", 1)
    child.requeue(alone=True)
    assert (child.status, child.attempts, child.alone) == ("queued", 1, True)
    child.begin()
    child.requeue(uncount=True)
    assert (child.status, child.attempts, child.alone) == ("queued", 1, True)


def test_events_are_kept_with_their_detail_and_time(ledger, tmp_path):
    before = time.time()
    ledger.save([row(0)], events=[("requeued", {"child": 0, "why": "crash"})])
    with closing(connect(tmp_path / "search.sqlite", read_only=True)) as database:
        ((when, kind, detail),) = database.execute("SELECT time, kind, detail FROM events").fetchall()
    assert before <= when <= time.time()
    assert (kind, json.loads(detail)) == ("requeued", {"child": 0, "why": "crash"})


def test_ledger_is_read_while_it_is_written(ledger, tmp_path):
    ledger.save([row(0)])
    with closing(connect(tmp_path / "search.sqlite", read_only=True)) as reader:
        reader.execute("BEGIN")
        assert read_rows(reader) == [row(0)]
        ledger.save([row(1)])  # without WAL a commit waits for all readers, and fails
        assert read_rows(reader) == [row(0)]
    assert read_children(tmp_path / "search.sqlite") == [row(0), row(1)]


def test_reader_sees_nothing_of_an_open_transaction(ledger, tmp_path):
    with ledger.transaction() as database:
        database.execute("INSERT INTO facts VALUES ('search', '1')")
        with closing(connect(tmp_path / "search.sqlite", read_only=True)) as reader:
            assert reader.execute("SELECT count(*) FROM facts").fetchone() == (0,)
    assert ledger.fact("search") == 1


def test_reader_cannot_write(ledger, tmp_path):
    reader = connect(tmp_path / "search.sqlite", read_only=True)
    with closing(reader), pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.execute("DELETE FROM children")


def test_commit_survives_a_power_cut(ledger):
    with ledger.transaction() as database:
        assert database.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL


def test_interrupt_takes_a_whole_transaction_back(ledger):
    def interrupted():
        with ledger.transaction() as database:
            database.execute("INSERT INTO facts VALUES ('search', '1')")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    ledger.save(facts={"split": 2})
    assert (ledger.fact("search"), ledger.fact("split")) == (None, 2)


def test_every_state_leaves_its_hash_and_the_later_one_of_a_group_counts(ledger, tmp_path):
    changed = State(STATE.tensors, {"proposed": 5})
    for state, group in ((STATE, 0), (STATE, 1), (changed, 1), (STATE, 2)):
        ledger.step([], state, group)
    with closing(connect(tmp_path / "search.sqlite", read_only=True)) as reader:
        found = reader.execute("SELECT * FROM state_hashes ORDER BY proposal_group").fetchall()
    assert [group for group, _ in found] == [0, 1, 2]
    first, second, third = (sha256 for _, sha256 in found)
    assert first == third != second


def test_hash_of_a_state_does_not_depend_on_the_order_of_its_values(ledger, tmp_path):
    ledger.step([], State({}, {"a": 1, "b": 2}), group=0)
    ledger.step([], State({}, {"b": 2, "a": 1}), group=1)
    with closing(connect(tmp_path / "search.sqlite", read_only=True)) as reader:
        assert reader.execute("SELECT count(DISTINCT sha256) FROM state_hashes").fetchone() == (1,)


def test_reading_changes_nothing_in_the_ledger_of_a_killed_search(ledger, tmp_path):
    ledger.save([row(0)])
    for name in ("search.sqlite", "search.sqlite-wal"):
        (tmp_path / f"killed-{name}").write_bytes((tmp_path / name).read_bytes())
    written = (tmp_path / "killed-search.sqlite-wal").read_bytes()
    assert len(written) > 0
    assert read_children(tmp_path / "killed-search.sqlite") == [row(0)]
    assert (tmp_path / "killed-search.sqlite-wal").read_bytes() == written


def test_facts_are_remembered(ledger):
    ledger.save(facts={"search": "abc", "split": {"training": 9}})
    ledger.save(facts={"search": "def"})
    assert [ledger.fact(name) for name in ("search", "split", "absent")] == ["def", {"training": 9}, None]


def test_closed_ledger_can_be_opened_again(ledger, tmp_path):
    ledger.save([row(0)])
    ledger.close()
    with closing(Ledger(tmp_path / "search.sqlite")) as again:
        assert again.rows() == [row(0)]


@pytest.mark.parametrize(
    ("version", "advice"), [(7, "update celltransfer"), (0, "it is not a search's file")]
)
def test_other_schema_is_refused_with_both_versions(tmp_path, version, advice):
    path = tmp_path / "search.sqlite"
    Ledger(path).close()
    with closing(sqlite3.connect(path)) as database:
        database.execute(f"PRAGMA user_version = {version}")
    for reader in (Ledger, read_children):
        with pytest.raises(ValueError, match=f"schema version {version}, this version reads 1..2; {advice}"):
            reader(path)


def test_other_files_are_refused(tmp_path):
    other = tmp_path / "notes.sqlite"
    other.write_text("not a database at all, but long enough to look at")
    with pytest.raises(ValueError, match=r"notes.sqlite: not a search ledger"):
        read_children(other)
    with pytest.raises(FileNotFoundError, match=r"absent.sqlite: no such ledger"):
        read_children(tmp_path / "absent.sqlite")
    os.mkfifo(tmp_path / "fifo.sqlite")
    for reader in (Ledger, read_children):
        with pytest.raises(ValueError, match=r"fifo.sqlite: expected a ledger file, but this is a FIFO"):
            reader(tmp_path / "fifo.sqlite")


def test_a_database_of_another_program_is_refused_by_name(tmp_path):
    path = tmp_path / "other.sqlite"
    with closing(sqlite3.connect(path)) as database:
        database.executescript("CREATE TABLE notes (text TEXT); PRAGMA user_version = 1")
    for reader in (read_children, lambda path: read_fact(path, "finished")):
        with pytest.raises(OSError, match=rf"^{path}: "):
            reader(path)


def test_an_empty_file_is_no_ledger_and_a_new_one_takes_its_place(tmp_path):
    path = tmp_path / "search.sqlite"
    path.touch()  # what a kill left before ledgers were renamed into place
    with pytest.raises(FileNotFoundError, match="no such ledger"):
        read_children(path)
    with closing(Ledger(path)) as ledger:
        ledger.save([row(0)])
    assert read_children(path) == [row(0)]


def test_the_log_of_a_ledger_that_is_gone_is_not_given_to_a_new_one(tmp_path):
    log = tmp_path / "search.sqlite-wal"
    log.write_bytes(b"pages")
    with pytest.raises(
        ValueError, match=r"search.sqlite-wal is left of a ledger whose search.sqlite is gone"
    ):
        Ledger(tmp_path / "search.sqlite")
    assert log.read_bytes() == b"pages"


@pytest.mark.parametrize("spoil", ["cut", "zeros", "page", "schema"])
def test_a_damaged_ledger_is_named_and_left_as_it_is(tmp_path, spoil):
    path = tmp_path / "search.sqlite"
    with closing(Ledger(path)) as ledger:
        ledger.step([row(number) for number in range(200)], STATE, group=0)
    content = path.read_bytes()
    damaged = {
        "cut": content[: len(content) // 2],
        "zeros": bytes(len(content)),
        "schema": content.replace(b"CREATE TABLE facts", b"CREATE \xffABLE facts"),
        "page": content[:8192] + b"x" * 4096 + content[12288:],
    }[spoil]
    path.write_bytes(damaged)
    for reader in (Ledger, read_children):
        with pytest.raises(
            ValueError, match=rf"^{path}: not a search ledger, or damaged: .*nothing was changed"
        ):
            reader(path)
    assert path.read_bytes() == damaged


LONG = "1" * 5000


@pytest.mark.parametrize(
    ("change", "read", "place"),
    [
        (f"UPDATE children SET metrics = '{{\"a\": {LONG}}}'", read_children, "child 0: metrics: .* a is"),
        (f"INSERT INTO facts VALUES ('life', '{LONG}')", located, "fact life: .* it is"),
        (f"INSERT INTO facts VALUES ('life', '{LONG}')", Snapshot.read, "fact life: .* it is"),
        (
            f"INSERT INTO events VALUES (0, 'started', '[{LONG}]')",
            Snapshot.read,
            r"event started: .* \[0\] is",
        ),
        (
            f"UPDATE strategy_values SET content = '{LONG}'",
            lambda path: Ledger(path).state(),
            "strategy: .* it",
        ),
    ],
)
def test_a_number_of_too_many_digits_is_named_by_ledger_and_place(ledger, tmp_path, change, read, place):
    ledger.step([row(0)], STATE, group=0)
    with ledger.transaction() as database:
        database.execute(change)
    with pytest.raises(ValueError, match=rf"search\.sqlite: .*damaged: {place}.* 5000 digits"):
        read(tmp_path / "search.sqlite")


def test_a_full_disk_names_the_ledger(ledger, tmp_path):
    ledger._database.execute("PRAGMA max_page_count = 1")
    with pytest.raises(OSError, match=rf"^{tmp_path}/search.sqlite: database or disk is full"):
        ledger.save([row(number) for number in range(100)])


SCHEMA_1 = """
CREATE TABLE children (
    number INTEGER PRIMARY KEY, proposal_group INTEGER NOT NULL, genotype TEXT NOT NULL,
    cell_key TEXT NOT NULL, decisions TEXT NOT NULL, log_prob REAL, cost INTEGER NOT NULL,
    start INTEGER NOT NULL, finish INTEGER NOT NULL, original INTEGER REFERENCES children(number),
    status TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, alone INTEGER NOT NULL DEFAULT 0,
    observed INTEGER NOT NULL DEFAULT 0, reward REAL, failure TEXT, detail TEXT NOT NULL DEFAULT '',
    curve TEXT NOT NULL DEFAULT '[]', seconds REAL NOT NULL DEFAULT 0, peak_bytes INTEGER
) STRICT;
CREATE INDEX children_by_key ON children(cell_key);
CREATE TABLE strategy (tensors BLOB NOT NULL, state_values TEXT NOT NULL) STRICT;
CREATE TABLE state_hashes (proposal_group INTEGER PRIMARY KEY, sha256 TEXT NOT NULL) STRICT;
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE events (time REAL NOT NULL, kind TEXT NOT NULL, detail TEXT NOT NULL) STRICT;
PRAGMA user_version = 1;
"""


def tables(path):
    with closing(sqlite3.connect(path)) as database:
        names = [name for (name,) in database.execute("SELECT name FROM sqlite_schema WHERE sql IS NOT NULL")]
        return {
            name: set(database.execute(f"SELECT name, type, [notnull] FROM pragma_table_info('{name}')"))
            for name in names
        }


def test_a_ledger_of_schema_1_is_read_and_becomes_one_of_schema_2(tmp_path):
    path, new = tmp_path / "search.sqlite", tmp_path / "new.sqlite"
    child = row(0, status="done", reward=0.5)
    old = [name for name in columns_of(child) if name in SCHEMA_1]
    with closing(sqlite3.connect(path)) as database:
        database.executescript(SCHEMA_1)
        marks = ", ".join("?" * len(old))
        values = [columns_of(child)[name] for name in old]
        database.execute(f"INSERT INTO children ({', '.join(old)}) VALUES ({marks})", values)
        state = [save_tensors(STATE.tensors), json.dumps(STATE.values)]
        database.execute("INSERT INTO strategy VALUES (?, ?)", state)
        database.commit()
    before = path.read_bytes()
    assert read_children(path) == [child]
    assert path.read_bytes() == before
    with closing(Ledger(path)) as ledger:
        assert ledger.rows() == [child]
        tensors, values = ledger.state()
        assert {name: tensor.tolist() for name, tensor in tensors.items()} == {"w": [1.0, 2.0], "steps": 3}
        assert values == STATE.values
        ledger.save([row(1, parameters=7, metrics={"latency": 2.0})], begun=[1])
        assert ledger.rows()[1].metrics == {"latency": 2.0}
    Ledger(new).close()
    assert tables(path) == tables(new)
