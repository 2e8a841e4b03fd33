"""How many children the nodes of a cluster take at a time. Nothing here knows the cluster's software."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from search.messages import SearchPaused

NODE_SECONDS = 1.0
"""Age at which what is known of the nodes is asked for again."""
DOUBT_SECONDS = 60.0
"""So long a node gets no child after one was lost there, unless it answers: it is called dead late."""


class Shape(NamedTuple):
    """What a child's process takes of its node. exclusive: it shares its device with no other.

    The device is the GPU; the whole node where children run on CPUs."""

    cpus: float
    gpus: float
    exclusive: bool = False


def slots(shape: Shape, resources: Mapping[str, float]) -> int:
    """Processes of a shape that fit on an empty node. resources: `CPU` and `GPU` of the node, in wholes."""
    of_cpus = int(resources.get("CPU", 0) / shape.cpus)
    if not shape.gpus:
        return of_cpus
    gpus = int(resources.get("GPU", 0))
    return min(of_cpus, gpus * int(1 / shape.gpus) if shape.gpus < 1 else int(gpus / shape.gpus))


def room(shape: Shape, resources: Mapping[str, float], busy: Sequence[tuple[Shape, bool]]) -> int:
    """Further children of a shape that a node takes now, at least 0.

    busy: the processes there that have a child, and whether it has begun. A node takes none before a child
    that must be alone has begun: its device empties meanwhile."""
    alone = [begun for each, begun in busy if each.exclusive]
    if alone and (not shape.gpus or not all(alone)):
        return 0
    of_one_gpu = int(1 / shape.gpus) if shape.gpus else 1
    return max(0, slots(shape, resources) - (len(busy) - len(alone)) - len(alone) * of_one_gpu)


class Node(NamedTuple):
    """A machine of the cluster. resources: `CPU` and `GPU`, in wholes."""

    address: str
    resources: Mapping[str, float]


class Nodes:
    """The nodes of a cluster by id, which may come and go, and how many children they take.

    One that cannot open the evaluator is refused until it joins again, with another id; one that lost a child
    is doubted for a while.
    """

    def __init__(self, shape: Shape, alive: Callable[[], Mapping[str, Node]]):
        """shape: of a usual child. alive: asks the cluster for its nodes."""
        self._shape, self._alive = shape, alive
        self._known: Mapping[str, Node] = {}
        self._looked = -NODE_SECONDS
        self._refused: dict[str, str] = {}
        self._doubted: dict[str, float] = {}

    def __str__(self) -> str:
        """What they have in all."""
        return ", ".join(
            " and ".join(f"{name} = {node.resources.get(name, 0):g}" for name in ("CPU", "GPU"))
            for node in self._known.values()
        )

    def usable(self) -> list[str]:
        """Ids of the nodes that may run children. Raises SearchPaused if none could open the evaluator."""
        if time.monotonic() - self._looked >= NODE_SECONDS:
            self._known, self._looked = self._alive(), time.monotonic()
        fit = [name for name, node in self._known.items() if slots(self._shape, node.resources)]
        if fit and not set(fit) - set(self._refused):
            raise SearchPaused(f"no node can open the evaluator; {self._refused[fit[-1]]}")
        return [name for name in self._known if name not in self._refused]

    def free(self, name: str, busy: Sequence[tuple[Shape, bool]]) -> int:
        """Children that a node takes now; see `room`."""
        known = name in self._known and name not in self._refused
        if not known or self._doubted.get(name, 0) > time.monotonic():
            return 0
        return room(self._shape, self._known[name].resources, busy)

    def resources(self, name: str) -> Mapping[str, float]:
        """Of a usable node."""
        return self._known[name].resources

    def doubt(self, name: str) -> None:
        self._doubted[name] = time.monotonic() + DOUBT_SECONDS

    def trust(self, name: str) -> None:
        """It has answered."""
        self._doubted.pop(name, None)

    def refuse(self, name: str, why: str) -> str:
        """Returns the reason with the node's address."""
        address = self._known[name].address if name in self._known else "gone"
        self._refused[name] = f"node {name[:12]} ({address}): {why}"
        return self._refused[name]
