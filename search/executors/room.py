"""How many children the nodes of a cluster take at a time."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple


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
