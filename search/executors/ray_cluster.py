"""Children on the nodes of a Ray cluster, in named actors that outlive the driver.

Each actor is placed on a node that we choose, holds the share of it that one child needs, and runs one child
after the other. Ray repeats nothing: attempts are counted in the ledger. What the loss of an actor means for
its child: killed by Ray for memory, out of memory; ended by native code of its own, a crash; anything else
(node gone, process killed), host lost, which is retried unseen by the strategy.
"""

import contextlib
import logging
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, OutOfMemoryError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from backbones.ranges import KEY, ConfigError
from search.executors.config import RayConfig, killed_after
from search.executors.ray_connection import alive_nodes, connect, stored
from search.executors.resident import Opened, Report, Resident, last_words
from search.executors.room import Nodes, Shape
from search.messages import ChildTask, Failure, OnProgress, OpenEvaluator, Result

WAIT_SECONDS = 0.2
"""Longest wait of one poll."""
REPORT_SECONDS = 2.0
MOST_REPORTS = 50
"""Time between two reports of a child, and reports of all children in a second; the rarer counts."""
ADOPT_SECONDS = 30.0
"""Within this time an actor of an earlier driver must answer; busy ones do at once, hung ones never."""
CLOSE_SECONDS = 10.0

log = logging.getLogger(__name__)


@dataclass
class _Worker:
    """An actor on a node, with the call whose answer is awaited.

    opened: None until the evaluator is open. task: what it was given last; None when that has its result.
    begun: when it got it, by our clock; None while the evaluator opens. lost: why the actor is gone; the
    awaited call then reads its last words.
    """

    actor: Any
    node: str
    shape: Shape
    answer: Any = None
    opened: Opened | None = None
    task: ChildTask | None = None
    begun: float | None = None
    lost: str = ""


class RayExecutor:
    """Runs children wherever the cluster has room, on nodes that may come and go.

    A child that must be alone takes a whole GPU, or a whole node where children run on CPUs: that node takes
    no other child until it has begun. A node that cannot open the evaluator is left out from then on.
    `open_evaluator` may have the attributes `threads`, of a child (1), and `timeout_seconds`, after which a
    child ends by itself.
    """

    dies_with_driver = False

    def __init__(self, config: RayConfig, open_evaluator: OpenEvaluator, search: str):
        """Raises ConfigError where there is no such cluster, or none with room for a child."""
        cpus = config.num_cpus or float(getattr(open_evaluator, "threads", 1))
        self._config, self._shape = config, Shape(cpus, config.num_gpus)
        self._timeout = killed_after(config, getattr(open_evaluator, "timeout_seconds", None))
        self._namespace, self._workers = f"celltransfer-{search}", list[_Worker]()
        self._nodes = Nodes(self._shape, alive_nodes)
        self._connected = connect(config.address)
        try:
            self._opener = stored(open_evaluator)
            if not any(map(self._free, self._nodes.usable())):
                raise ConfigError(self._no_room())
        except BaseException:
            self._disconnect()
            raise

    def _no_room(self) -> str:
        return (
            f"{KEY}executor: no node of the cluster at {self._config.address} has room for a child of "
            f"num_cpus = {self._shape.cpus:g} and num_gpus = {self._shape.gpus:g}; its nodes have "
            f"{self._nodes}"
        )

    def adopt(self, tasks: Sequence[ChildTask]) -> set[int]:
        """An actor that has nothing of ours, or does not answer, is ended."""
        wanted: dict[Any, ChildTask] = {(task.proposal.number, task.attempt): task for task in tasks}
        asked = {actor.report.remote(0): actor for actor in self._actors()}
        ready, _ = ray.wait([*asked], num_returns=len(asked), timeout=ADOPT_SECONDS) if asked else ([], [])
        adopted = set()
        for answer in ready:
            report = _value(answer)
            task = wanted.get((report.number, report.attempt)) if isinstance(report, Report) else None
            if task is not None:
                actor = asked.pop(answer)
                begun = time.monotonic() - report.seconds
                worker = _Worker(actor, report.node, report.shape, None, report.opened, task, begun)
                self._workers.append(worker)
                self._ask(worker)
                adopted.add(task.proposal.number)
        for actor in asked.values():
            _kill(actor)
        return adopted

    def capacity(self) -> int:
        free = sum(map(self._free, self._nodes.usable()))
        busy = sum(worker.task is not None for worker in self._workers)
        return free if self._config.workers is None else max(0, min(free, self._config.workers - busy))

    def submit(self, task: ChildTask) -> None:
        if not self.capacity():
            raise RuntimeError(f"child {task.proposal.number} was submitted to a busy executor")
        shape = self._shape_of(task)
        idle = (each for each in self._workers if each.task is None and each.shape == shape)
        worker = next((each for each in idle if self._free(each.node) > 0), None)
        if worker is None:
            worker = self._start(max(self._nodes.usable(), key=self._free), shape)
        worker.task = task
        if worker.opened is not None:
            self._begin(worker)
        self._make_room()

    def poll(self, on_progress: OnProgress | None = None) -> list[Result]:
        self._make_room()
        awaited = {worker.answer: worker for worker in self._workers}
        if awaited:
            ray.wait([*awaited], timeout=WAIT_SECONDS)
        ready = ray.wait([*awaited], num_returns=len(awaited), timeout=0)[0] if awaited else []
        results = [self._take(awaited[answer], answer, on_progress) for answer in ready]
        results += [self._over_time(worker) for worker in list(self._workers)]
        return [result for result in results if result is not None]

    def cancel(self, number: int) -> None:
        for worker in list(self._workers):
            if worker.task is not None and worker.task.proposal.number == number:
                self._end(worker)

    def close(self) -> None:
        if not ray.is_initialized():
            return
        for actor in (*self._actors(), *(worker.actor for worker in self._workers)):
            _kill(actor)
        self._workers.clear()
        deadline = time.monotonic() + CLOSE_SECONDS
        while any(self._actors()) and time.monotonic() < deadline:
            time.sleep(0.05)
        self._disconnect()

    def _disconnect(self) -> None:
        if self._connected:
            ray.shutdown()

    def _free(self, node: str) -> int:
        """Children that a node takes now."""
        here = (each for each in self._workers if each.node == node and each.task)
        return self._nodes.free(node, [(each.shape, each.begun is not None) for each in here])

    def _shape_of(self, task: ChildTask) -> Shape:
        """exclusive only where the usual shape shares a device."""
        return self._shape._replace(exclusive=task.alone and self._shape.gpus < 1)

    def _start(self, node: str, shape: Shape) -> _Worker:
        """A new actor. Ray starts it as soon as the node has that much free."""
        cpus, gpus = shape.cpus, shape.gpus
        if shape.exclusive and gpus:
            gpus = 1.0
        elif shape.exclusive:
            cpus = self._nodes.resources(node)["CPU"]
        actor = _Actor.options(
            name=uuid.uuid4().hex,
            namespace=self._namespace,
            lifetime="detached",
            num_cpus=cpus,
            num_gpus=gpus,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
        ).remote(node, shape, int(60 * self._config.orphan_minutes))
        worker = _Worker(actor, node, shape, actor.open.remote(self._opener))
        self._workers.append(worker)
        return worker

    def _begin(self, worker: _Worker) -> None:
        """The report that is awaited already will tell its end; for a second one there is no thread."""
        worker.begun = time.monotonic()
        worker.actor.run.remote(worker.task)

    def _ask(self, worker: _Worker) -> None:
        seconds = max(REPORT_SECONDS, len(self._workers) / MOST_REPORTS)
        worker.answer = worker.actor.report.remote(seconds)

    def _make_room(self) -> None:
        """Ends idle actors that are of no use, or in the way of a child that must be alone.

        Their results are recorded by now: nobody calls us before."""
        waited_for = {each.node for each in self._workers if each.shape.exclusive and each.task}
        for worker in list(self._workers):
            if worker.task is None and (worker.shape != self._shape or worker.node in waited_for):
                self._end(worker)

    def _take(self, worker: _Worker, answer: Any, on_progress: OnProgress | None) -> Result | None:
        value = _value(answer)
        if worker.answer != answer or worker not in self._workers:
            return None
        if worker.lost:
            return self._buried(worker, value)
        if isinstance(value, Exception):
            return self._failed(worker, value)
        if isinstance(value, Opened):
            worker.opened = value
            self._begin(worker)
            self._ask(worker)
            return None
        self._ask(worker)
        task = worker.task
        if task is None or (value.number, value.attempt) != (task.proposal.number, task.attempt):
            return None
        if on_progress is not None:
            for told in value.told:
                on_progress(*told)
        if value.interrupted:
            raise KeyboardInterrupt
        if value.result is not None:
            worker.task = None
        return value.result

    def _failed(self, worker: _Worker, error: Exception) -> Result | None:
        if isinstance(error, ActorUnavailableError):  # the network, for a moment
            if worker.opened is None:
                worker.answer = worker.actor.open.remote(self._opener)
            else:
                self._ask(worker)
            return None
        if isinstance(error, OutOfMemoryError):
            return self._end(worker, Failure.OUT_OF_MEMORY, str(error).partition("\nObject store")[0])
        if isinstance(error, RayTaskError) and worker.opened is None:
            return self._refuse(worker, error)
        self._nodes.doubt(worker.node)
        worker.lost = str(error).strip().splitlines()[-1]
        on_node = NodeAffinitySchedulingStrategy(worker.node, soft=False)
        errors = worker.opened.errors if worker.opened else ""
        worker.answer = _read_last_words.options(scheduling_strategy=on_node).remote(errors)
        return None

    def _refuse(self, worker: _Worker, error: RayTaskError) -> Result | None:
        cause = error.cause if isinstance(error.cause, Exception) else error
        detail = self._nodes.refuse(worker.node, f"{type(cause).__name__}: {cause}")
        log.warning("no child is run there until it joins again: %s", detail)
        return self._end(worker, Failure.HOST_LOST, f"its evaluator could not be opened on {detail}")

    def _buried(self, worker: _Worker, words: Any) -> Result | None:
        """words: an error where the node is gone, too."""
        if isinstance(words, str):
            self._nodes.trust(worker.node)
            if words:
                return self._end(worker, Failure.CRASH, f"its process ended by itself: {words}")
        return self._end(worker, Failure.HOST_LOST, worker.lost)

    def _over_time(self, worker: _Worker) -> Result | None:
        if self._timeout is None or worker.task is None or worker.begun is None or worker.lost:
            return None
        seconds = time.monotonic() - worker.begun
        if seconds <= self._timeout:
            return None
        return self._end(worker, Failure.TIMEOUT, f"its process was killed after {seconds:.0f} s")

    def _end(self, worker: _Worker, failure: Failure | None = None, detail: str = "") -> Result | None:
        """Ends an actor, if it is not gone, and forgets it. failure: of the child that it had, if any."""
        self._workers.remove(worker)
        _kill(worker.actor)
        if failure is None or worker.task is None:
            return None
        seconds = 0.0 if worker.begun is None else time.monotonic() - worker.begun
        site = worker.opened.site if worker.opened else None
        return Result(worker.task.proposal, failure=failure, detail=detail, seconds=seconds, site=site)

    def _actors(self) -> Iterator[Any]:
        """All of this search, whoever started them."""
        for found in ray.util.list_named_actors(all_namespaces=True):
            if found["namespace"] == self._namespace:
                with contextlib.suppress(ValueError):  # it ended in between
                    yield ray.get_actor(found["name"], self._namespace)


_remote: Any = ray.remote
_Actor = _remote(max_restarts=0, max_task_retries=0, max_concurrency=2)(Resident)
_read_last_words = _remote(num_cpus=0, max_retries=0)(last_words)


def _value(answer: Any) -> Any:
    """What a call returned, or the error that it ended with."""
    try:
        return ray.get(answer)
    except RayError as error:
        return error


def _kill(actor: Any) -> None:
    with contextlib.suppress(RayError):
        ray.kill(actor)
