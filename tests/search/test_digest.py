import sqlite3
from contextlib import closing

import pytest
from toy_search import ScrambledConfig, evaluator, toy_config

from search.config import BudgetConfig
from search.ledger.digest import digest
from search.ledger.reader import LEDGER
from search.run import run

CHANCE = {
    *("genotype", "status", "attempts", "alone", "detail", "seconds", "cpu_seconds", "peak_bytes", "metrics")
}
"""Columns of a child that a digest passes over; the cell is in `cell_key` and `decisions`."""


@pytest.fixture
def ledger(tmp_path):
    run(toy_config(tmp_path, 6))
    return tmp_path / LEDGER


def execute(path, statement):
    with closing(sqlite3.connect(path)) as database, database:
        return database.execute(statement).fetchall()


def test_every_column_of_a_child_is_decided_upon(ledger):
    """A change of one value changes the digest, or is one of those that may differ by chance."""
    whole = digest(ledger)
    assert len(whole) == 64
    for _, name, kind, *_ in execute(ledger, "PRAGMA table_info(children)"):
        (before,) = execute(ledger, f"SELECT quote({name}) FROM children WHERE number = 3")[0]
        other = {"TEXT": "'other'", "BLOB": "x'77'"}.get(kind, "77")
        changed = {"status": "'queued'", "original": "2"}.get(name, other)
        execute(ledger, f"UPDATE children SET {name} = {changed} WHERE number = 3")
        assert (digest(ledger) == whole) == (name in CHANCE), name
        number = "77" if name == "number" else "3"
        execute(ledger, f"UPDATE children SET {name} = {before} WHERE number = {number}")
        assert digest(ledger) == whole


def test_a_state_or_a_child_more_or_less_changes_the_digest(ledger):
    found = [digest(ledger)]
    for statement in (
        "UPDATE state_hashes SET sha256 = 'f' WHERE proposal_group = 1",
        "DELETE FROM state_hashes WHERE proposal_group = 1",
        "DELETE FROM children WHERE number = 5",
    ):
        execute(ledger, statement)
        found.append(digest(ledger))
    assert len(set(found)) == 4


def test_digest_tells_searches_apart_and_nothing_else(tmp_path):
    def found(name, **changes):
        run(toy_config(tmp_path / name, 12, **changes))
        return digest(tmp_path / name / LEDGER)

    lost = evaluator(failures={1: ["crash"], 7: ["host lost"]})
    one = found("one")
    assert found("two", executor=ScrambledConfig(slots=7), evaluator=lost) == one
    assert found("three", seed=1) != one
    found("four", budget=BudgetConfig(children=7))
    assert found("four") == one


def test_digest_of_schema_1_is_taken_without_what_that_lacks(ledger):
    lacking = ("parameters", "multiply_adds", "activation_bytes")
    execute(ledger, f"UPDATE children SET {', '.join(f'{name} = NULL' for name in lacking)}")
    before = digest(ledger)
    for name in (*lacking, "cpu_seconds", "metrics"):
        execute(ledger, f"ALTER TABLE children DROP COLUMN {name}")
    execute(ledger, "PRAGMA user_version = 1")
    assert digest(ledger) == before
