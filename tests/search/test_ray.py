"""Children on a Ray cluster: processes and nodes that die, that join, and a driver that comes back."""

import copy
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from ray_children import attempts
from ray_nodes import Cluster
from small_evaluators import Behaves, task
from toy_search import history, toy_config

from backbones.ranges import ConfigError
from search.executors.config import RayConfig
from search.executors.protocol import Executor
from search.executors.resident import Resident, Shape, last_words
from search.executors.room import Node, Nodes, room, slots
from search.ledger.reader import read_children
from search.messages import ChildFailed, ChildTask, Failure, Result, SearchPaused
from search.run import run
from tests.search.test_executors import ExecutorContract

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "cluster.md"
CHILDREN = 24
WAIT_SECONDS = 90
ABSENT = "FileNotFoundError: no data on this machine"
CPU = Shape(1.0, 0.0)


# The parts that know no cluster.


@pytest.mark.parametrize(
    ("shape", "resources", "fit"),
    [
        (Shape(1.0, 0.0), {"CPU": 4.0}, 4),
        (Shape(3.0, 0.0), {"CPU": 4.0, "GPU": 8.0}, 1),
        (Shape(1.0, 0.5), {"CPU": 16.0, "GPU": 2.0}, 4),
        (Shape(1.0, 0.3), {"CPU": 16.0, "GPU": 2.0}, 6),
        (Shape(1.0, 2.0), {"CPU": 16.0, "GPU": 5.0}, 2),
        (Shape(1.0, 0.5), {"CPU": 3.0, "GPU": 2.0}, 3),
        (Shape(1.0, 0.5), {"CPU": 16.0}, 0),
        (Shape(1.0, 0.0), {}, 0),
    ],
)
def test_children_that_fit_on_a_node(shape, resources, fit):
    assert slots(shape, resources) == room(shape, resources, []) == fit
    assert room(shape, resources, [(shape, True)] * fit) == 0
    assert room(shape, resources, [(shape, False)]) == max(0, fit - 1)


def test_a_child_that_is_alone_has_the_node_or_one_gpu_of_it():
    alone = CPU._replace(exclusive=True)
    assert room(CPU, {"CPU": 4.0}, [(alone, False)]) == room(CPU, {"CPU": 4.0}, [(alone, True)]) == 0
    half = Shape(1.0, 0.5)
    alone, node = half._replace(exclusive=True), {"CPU": 16.0, "GPU": 3.0}
    assert room(half, node, [(alone, False)]) == 0  # before it has its GPU none of them may fill up
    assert room(half, node, [(alone, True)]) == 4
    assert room(half, node, [(alone, True), (half, True)]) == 3


def test_nodes_that_lost_a_child_or_cannot_open_the_evaluator_get_none(monkeypatch):
    machines = {"a": Node("10.0.0.1", {"CPU": 2.0}), "head": Node("10.0.0.2", {})}
    nodes = Nodes(CPU, lambda: machines)
    assert (nodes.usable(), str(nodes)) == (["a", "head"], "CPU = 2 and GPU = 0, CPU = 0 and GPU = 0")
    assert [nodes.free(name, []) for name in ("a", "head", "gone")] == [2, 0, 0]
    nodes.doubt("a")
    assert nodes.free("a", []) == 0
    nodes.trust("a")
    assert nodes.free("a", [(CPU, True)]) == 1
    assert nodes.refuse("a", "no data") == "node a (10.0.0.1): no data"
    assert nodes.free("a", []) == 0
    with pytest.raises(SearchPaused, match=r"no node can open the evaluator; node a \(10.0.0.1\): no data"):
        nodes.usable()
    monkeypatch.setattr("search.executors.room.NODE_SECONDS", 0.0)
    machines["b"] = Node("10.0.0.3", {"CPU": 1.0})
    assert nodes.usable() == ["head", "b"]


@pytest.fixture
def resident(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # which the process of a child on CPUs sets for itself
    yield Resident("node", CPU, 60)
    signal.alarm(0)


def test_a_result_is_kept_until_the_next_task(resident):
    assert resident.report(0).number is None
    assert resident.open(Behaves()).site.node == "node"
    resident.run(task(3, attempt=1))
    for report in (resident.report(60), resident.report(0)):  # the first does not wait for what is there
        assert (report.number, report.attempt, report.result.reward) == (3, 1, 0.3)
        assert report.result.site.pid == os.getpid()
    resident.run(task(5))
    assert (resident.report(0).number, resident.report(0).result.reward) == (5, 0.5)


def test_process_without_a_driver_ends_even_inside_native_code():
    code = (
        "import ctypes\nfrom search.executors.resident import Resident, Shape\n"
        "Resident('node', Shape(1, 0), 1)\nctypes.PyDLL(None).sleep(60)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=30).returncode == -signal.SIGALRM


def test_last_words_of_a_process_that_native_code_ended(tmp_path):
    errors = tmp_path / "errors"
    code = "import faulthandler, ctypes; faulthandler.enable(); ctypes.string_at(0)"
    with errors.open("wb") as file:
        subprocess.run([sys.executable, "-c", code], stderr=file)
    words = last_words(str(errors))
    assert words.startswith("Segmentation fault")
    assert "string_at" in words
    errors.write_text("a warning")
    assert last_words(str(errors)) == last_words(str(tmp_path / "nothing")) == ""


def test_typed_failure_survives_the_way_between_processes():
    error = copy.copy(ChildFailed(Failure.TIMEOUT, "late"))  # as pickle takes it apart and puts it together
    assert (str(error), error.failure, error.detail) == ("timeout: late", Failure.TIMEOUT, "late")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "address",
            "ray://head:10001",
            "address = 'ray://head:10001', expected auto or HOST:PORT; the",
        ),
        ("address", "head", "address = 'head', expected auto or HOST:PORT"),
        ("num_gpus", 1.5, "num_gpus = 1.5, expected a part of one GPU or whole GPUs"),
        ("num_gpus", -0.5, "num_gpus = -0.5, must be at least 0"),
        ("num_cpus", 0, "num_cpus = 0, must be above 0, or null"),
        ("workers", 0, "workers = 0, must be at least 1, or null"),
        ("orphan_minutes", 0.5, "orphan_minutes = 0.5, must be at least 1"),
    ],
)
def test_bad_values_are_refused(key, value, message):
    with pytest.raises(ConfigError) as error:
        RayConfig(**{key: value})
    assert message in str(error.value)


# On a cluster of this machine: a head without room, and nodes.

slow = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head and the node `a` with room for two children."""
    ray = pytest.importorskip("ray", reason='needs Ray: pip install -e ".[ray]"')
    cluster = Cluster()
    try:
        cluster.add("a", cpus=2)
        yield cluster
    finally:
        ray.shutdown()
        cluster.close()
    assert cluster.processes() == []


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> list[tuple]:
    folder = tmp_path_factory.mktemp("unbroken")
    run(toy_config(folder, CHILDREN))
    return history(folder)


def that_run(unbroken: list[tuple]) -> list[int]:
    """Numbers of the children that are no duplicates."""
    return [row[0] for row in unbroken if row[7] is None]


def children(folder: Path, **settings) -> dict:
    return {"_target_": "ray_children.Children", "folder": str(folder), **settings}


def outcomes(run_dir: Path) -> dict[int, list[str]]:
    """Of each child's attempts, in order."""
    with closing(sqlite3.connect(run_dir / "search.sqlite")) as database:
        found: dict[int, list[str]] = {}
        for number, outcome in database.execute("SELECT child, outcome FROM attempts ORDER BY id"):
            found.setdefault(number, []).append(outcome)
        return found


def nodes(run_dir: Path) -> set[str]:
    with closing(sqlite3.connect(run_dir / "search.sqlite")) as database:
        return {node for (node,) in database.execute("SELECT node FROM attempts WHERE node IS NOT NULL")}


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def beside():
    """Returns a function that runs another beside the test and raises what that raised, at the end."""
    threads, errors = [], []

    def start(function: Callable[[], None]) -> None:
        def guarded() -> None:
            try:
                function()
            except BaseException as error:
                errors.append(error)

        threads.append(threading.Thread(target=guarded, daemon=True))
        threads[-1].start()

    yield start
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


@slow
def test_process_that_is_killed_crashes_or_hangs_costs_one_attempt(cluster, unbroken, tmp_path):
    (tmp_path / "begun").mkdir()
    first, second, third = that_run(unbroken)[2:8:2]
    faults = {first: "killed", second: "segfault", third: "hang"}
    config = toy_config(
        tmp_path / "run",
        CHILDREN,
        evaluator=children(tmp_path / "begun", faults=faults),
        executor=RayConfig(address=cluster.address, timeout_seconds=5),
    )
    run(config)
    assert history(tmp_path / "run") == unbroken
    expected = {number: ["done"] for number in that_run(unbroken)}
    expected |= {first: ["host lost", "done"], second: ["crash", "done"], third: ["timeout", "done"]}
    assert outcomes(tmp_path / "run") == expected
    assert {row.alone for row in read_children(tmp_path / "run" / "search.sqlite")} == {False, True}


DRIVER = """
import sys
from ray_children import Children
from toy_search import toy_config
from search.executors.config import RayConfig
from search.run import run
run_dir, begun, held, children, address = sys.argv[1:]
settings = {"_target_": "ray_children.Children", "folder": begun, "long_from": int(held)}
run(toy_config(run_dir, int(children), evaluator=settings, executor=RayConfig(address=address)))
"""


@slow
def test_killed_driver_finds_its_children_and_their_results_again(cluster, unbroken, tmp_path, beside):
    (begun := tmp_path / "begun").mkdir()
    held = that_run(unbroken)[5]
    words = [str(tmp_path / "run"), str(begun), str(held), str(CHILDREN), cluster.address]
    path = os.pathsep.join(sys.path)
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, *words], env={**os.environ, "PYTHONPATH": path})
    try:
        wait_until(lambda: sum(number >= held for number, _ in attempts(begun)) == 2)
    except BaseException:
        stop_by_hand(cluster)
        raise
    finally:
        driver.kill()
        driver.wait()
    before = attempts(begun)
    (begun / f"go{before[-1][0]}").touch()  # this child ends while there is no driver, the other one later

    def let_go() -> None:
        wait_until(lambda: len(attempts(begun)) > len(before))
        (begun / "go").touch()

    beside(let_go)
    executor = RayConfig(address=cluster.address)
    run(toy_config(tmp_path / "run", CHILDREN, evaluator=children(begun, long_from=held), executor=executor))
    assert history(tmp_path / "run") == unbroken
    assert attempts(begun) == [(number, 0) for number in that_run(unbroken)]
    assert outcomes(tmp_path / "run") == {number: ["done"] for number in that_run(unbroken)}


def stop_by_hand(cluster: Cluster) -> None:
    """What docs/cluster.md says about actors that a search left behind."""
    code = DOCUMENT.read_text().partition("<<'PY'\n")[2].partition("PY\n")[0]
    environment = {**os.environ, "RAY_ADDRESS": cluster.address}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


@slow
def test_actors_are_stopped_by_hand_as_documented(cluster):
    with closing(RayConfig(address=cluster.address).build(Behaves(), "left")) as executor:
        executor.submit(task(0))
        stop_by_hand(cluster)
        while not (results := executor.poll()):
            pass
    assert [result.failure for result in results] == [Failure.HOST_LOST]


def test_cluster_that_does_not_answer_is_named_at_once():
    pytest.importorskip("ray", reason='needs Ray: pip install -e ".[ray]"')
    with pytest.raises(ConfigError, match=r"executor.address = 127.0.0.1:1: no Ray cluster \(.*refused"):
        RayConfig(address="127.0.0.1:1").build(Behaves(), "search")


@slow
def test_no_node_that_can_open_the_evaluator_pauses_the_search(cluster):
    executor = RayConfig(address=cluster.address).build(OnlyHere(), "nowhere")
    with closing(executor), pytest.raises(SearchPaused, match=f"no node can open the evaluator; .*{ABSENT}"):
        run_all(executor, [task(number) for number in range(9)])


class OnlyHere:
    def __call__(self):
        raise FileNotFoundError("no data on this machine")


def run_all(executor: Executor, tasks: list[ChildTask]) -> list[Result]:
    results, running = list[Result](), 0
    while tasks or running:
        while tasks and executor.capacity():
            executor.submit(tasks.pop(0))
            running += 1
        new = executor.poll()
        results += new
        running -= len(new)
    return results


@slow
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"num_gpus": 1},
            "no node of the cluster at .* has room for a child of num_cpus = 1 and num_gpus = 1",
        ),
        ({"num_cpus": 64}, "num_cpus = 64 and num_gpus = 0; its nodes have CPU = "),
    ],
)
def test_cluster_without_room_for_any_child_is_refused(cluster, settings, message):
    with pytest.raises(ConfigError, match=message):
        RayConfig(address=cluster.address, **settings).build(Behaves(), "search")


@slow
class TestRay(ExecutorContract):
    @pytest.fixture(scope="class")
    @classmethod
    def executor(cls, cluster):
        with closing(RayConfig(address=cluster.address).build(Behaves(), "contract")) as executor:
            yield executor


# Nodes that are killed come last: Ray needs a while to call them dead.


@slow
def test_node_that_dies_loses_one_attempt_and_one_that_joins_is_used(cluster, unbroken, tmp_path, beside):
    (begun := tmp_path / "begun").mkdir()
    cluster.add("b", cpus=1)
    held = that_run(unbroken)[5]

    def exchange_nodes() -> None:
        wait_until(lambda: sum(number >= held for number, _ in attempts(begun)) == 3)
        cluster.kill("b")
        cluster.add("c", cpus=1)  # the two children on `a` wait for `go`: only here is room
        wait_until(lambda: any(attempt == 1 for _, attempt in attempts(begun)))
        (begun / "go").touch()

    beside(exchange_nodes)
    executor = RayConfig(address=cluster.address)
    run(toy_config(tmp_path / "run", CHILDREN, evaluator=children(begun, long_from=held), executor=executor))
    assert history(tmp_path / "run") == unbroken
    found = sorted(outcomes(tmp_path / "run").values())
    assert found == [["done"]] * (len(that_run(unbroken)) - 1) + [["host lost", "done"]]
    assert len(nodes(tmp_path / "run")) == 3
    cluster.kill("c")


@slow
def test_child_that_ray_ends_for_want_of_memory_is_out_of_memory(cluster):
    low = {"RAY_memory_usage_threshold": "0.001", "RAY_memory_monitor_refresh_ms": "100"}
    cluster.add("low", cpus=3, **low)  # the emptiest node takes the first child
    with closing(RayConfig(address=cluster.address).build(Behaves(), "memory")) as executor:
        (result,) = run_all(executor, [task(0)])
    assert result.failure is Failure.OUT_OF_MEMORY
    assert "running low on memory" in result.detail
    cluster.kill("low")
