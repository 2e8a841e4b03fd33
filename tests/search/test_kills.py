"""A search that is killed, at whatever point, continues as if nothing had happened."""

import json
import os
import random
import signal
import time
from collections import Counter
from contextlib import closing, suppress

import pytest
from fault_points import exit_code, fork, group_ends, in_fork, in_memory, kill_at_point
from toy_search import DIGITS, FAVOURITE, TINY, evaluator, toy_config

from runtime.interrupts import sigterm_as_interrupt
from runtime.owner import owned
from search.config import BudgetConfig, SpaceConfig
from search.executors.config import InlineConfig, ProcessConfig
from search.ledger.digest import digest
from search.ledger.reader import LEDGER, connect, is_ledger, read_children
from search.ledger.writer import Ledger
from search.run import run
from search.strategies.config import ControllerConfig


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with in_memory(tmp_path_factory.mktemp("kills")) as folder:
        yield folder


def short_search(run_dir):
    """Eight children, an update of the controller, a duplicate (5 of 4), a child that crashes at first."""
    given = evaluator(failures={3: ["crash"]}, diary=str(run_dir.with_name("diary")))
    space = SpaceConfig(blocks=1, operations=[FAVOURITE, "conv_1x1"], combinations=["add"])
    strategy = ControllerConfig(architectures_per_update=3, lr=0.01, hidden=8)
    return run(toy_config(run_dir, 8, evaluator=given, strategy=strategy, space=space, seed=6))


def runs(run_dir):
    """How often each child has been run, of the search that began last."""
    diary = run_dir.with_name("diary")
    return Counter(map(int, diary.read_text().split())) if diary.exists() else Counter()


def begun_and_done(run_dir):
    """Attempts of each child, and those that were ended with a result, as the ledger has them."""
    with closing(connect(run_dir / LEDGER, read_only=True)) as database:
        found = database.execute("SELECT child, outcome FROM attempts").fetchall()
    return Counter(child for child, _ in found), Counter(child for child, how in found if how == "done")


@pytest.fixture(scope="module")
def unbroken(folder):
    """Folder of a search that was not killed, and the points at which it could have been."""
    run_dir, points = folder / "unbroken", folder / "points.json"

    def counted():
        passed = []
        kill_at_point(run_dir, 0, passed)
        short_search(run_dir)
        points.write_text(json.dumps(passed))

    short_search(folder / "warm")  # what is imported late, and by every fork again
    assert in_fork(counted, folder / "log") == 0, (folder / "log").read_text()
    rows = read_children(run_dir / LEDGER)
    assert {row.number: row.original for row in rows if row.original is not None} == {5: 4}
    return run_dir, json.loads(points.read_text())


def check_kill_at(folder, unbroken, number):
    run_dir, log = folder / f"killed-{number}", folder / "log"
    run_dir.with_name("diary").unlink(missing_ok=True)

    def dying():
        kill_at_point(run_dir, number)
        short_search(run_dir)

    assert in_fork(dying, log) == -9, log.read_text()
    ledger = run_dir / LEDGER
    before = read_children(ledger) if os.path.lexists(ledger) and is_ledger(ledger) else []
    ran = runs(run_dir)
    content = short_search(run_dir)  # the lock is free at once
    assert digest(ledger) == digest(unbroken / LEDGER)
    assert content == json.loads((unbroken / "metrics.json").read_text())
    for name in ("genotype.json", "metrics.json"):
        assert (run_dir / name).read_text() == (unbroken / name).read_text()
    after = read_children(ledger)
    for row in before:
        if row.status == "done":
            assert after[row.number].result == row.result
            assert (after[row.number].attempts, runs(run_dir)[row.number]) == (row.attempts, ran[row.number])
    attempts, done = begun_and_done(run_dir)
    assert attempts == {row.number: row.attempts for row in after if row.original is None}
    assert done == dict.fromkeys(attempts, 1)
    assert [path.name for path in run_dir.iterdir() if path.name.startswith(".")] == []
    with owned(run_dir):
        pass


@pytest.mark.parametrize("name", ["save", "step"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_between_two_children_leaves_none_running(folder, unbroken, monkeypatch, name, number):
    """At each record that the search makes the process is interrupted; the record itself is made."""
    run_dir, whole = folder / f"interrupted-{name}-{number}", digest(unbroken[0] / LEDGER)
    before, passed, write = signal.getsignal(signal.SIGTERM), 0, getattr(Ledger, name)

    def interrupted(ledger, *arguments, **settings):
        nonlocal passed
        passed += 1
        if passed == at:
            signal.raise_signal(number)
        write(ledger, *arguments, **settings)

    sigterm_as_interrupt()
    monkeypatch.setattr(Ledger, name, interrupted)
    at = 0
    while passed >= at:  # until a life has fewer records than that
        at, passed = at + 1, 0
        try:
            short_search(run_dir)
        except KeyboardInterrupt:
            rows = read_children(run_dir / LEDGER)
            assert {row.status for row in rows} <= {"queued", "done"}
    signal.signal(signal.SIGTERM, before)
    assert at > 3
    assert digest(run_dir / LEDGER) == whole
    rows = read_children(run_dir / LEDGER)
    assert [row.attempts for row in rows] == [row.attempts for row in read_children(unbroken[0] / LEDGER)]


def test_the_points_are_those_of_a_first_start_of_every_transaction_and_of_the_end(unbroken):
    _, points = unbroken
    for what in ("os.mkdir ", "open /owner.lock", "open /log.txt", "sqlite3.connect", "COMMIT", "os.fsync"):
        assert what in points
    for beginning in ("CREATE TABLE children", "os.rename /.config.yaml", "os.rename /.search.sqlite.new"):
        assert any(point.startswith(beginning) for point in points)
    # Each of 8 children is submitted, one twice, and its result taken, but for the duplicate.
    assert points.count("COMMIT") > 2 * 8
    assert len(points) > 150


@pytest.mark.parametrize("part", range(2))
def test_a_search_killed_at_a_point_continues_as_if_nothing_had_happened(folder, unbroken, part):
    run_dir, points = unbroken
    for number in range(1 + 17 * part, len(points) + 1, 40):
        check_kill_at(folder, run_dir, number)


@pytest.mark.slow
def test_a_search_killed_at_any_point_continues_as_if_nothing_had_happened(folder, unbroken):
    run_dir, points = unbroken
    for number in range(1, len(points) + 1):
        check_kill_at(folder, run_dir, number)


EXECUTORS = {"inline": InlineConfig(), "process": ProcessConfig(workers=2)}


@pytest.mark.slow
@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_search_with_real_children_killed_at_random_instants_continues(folder, executor):
    def search(run_dir):
        changes = {"data": DIGITS, "child": TINY, "evaluator": None, "executor": EXECUTORS[executor]}
        run(toy_config(run_dir, 12, budget=BudgetConfig(children=12, max_attempts=99), **changes))

    log, draw = folder / "log", random.Random(7)
    begun = time.monotonic()
    assert in_fork(lambda: search(folder / executor), log) == 0, log.read_text()
    seconds, whole = time.monotonic() - begun, digest(folder / executor / LEDGER)
    killed = number = 0
    while killed < 20:
        run_dir, number = folder / f"{executor}-{number}", number + 1
        for life in range(99):
            process = fork(lambda run_dir=run_dir: search(run_dir), log)
            # Of the first lives several end in the first start. Later ones become longer: on a machine that
            # is busier than in the unbroken search, none would else live until its first child is done.
            time.sleep(draw.uniform(0, 0.3 if life == 0 else 0.7 * 1.2 ** (life - 1)) * seconds)
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
            code = exit_code(process)
            with owned(run_dir):
                pass
            # The kernel kills the workers at once; on a busy machine it takes 2 s to give back their memory.
            assert group_ends(process, 20)
            if code == 0:
                break
            assert code == -9, log.read_text()
            killed += 1
        else:
            pytest.fail("no life was long enough")
        rows = read_children(run_dir / LEDGER)
        assert (digest(run_dir / LEDGER), len(rows)) == (whole, 12)
        _, done = begun_and_done(run_dir)
        assert done == {row.number: 1 for row in rows if row.original is None}
