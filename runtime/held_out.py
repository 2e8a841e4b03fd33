"""Which images are held out for validation where a data set has no split of its own."""

import hashlib
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray


def held_out(
    names: Sequence[str], fraction: float, seed: int, groups: Sequence[Hashable] | None = None
) -> NDArray[np.bool_]:
    """Draws `fraction` of the images, at least one and never all.

    names: of the images, each once. An image's rank depends on its name and the seed alone, so that the
    others stay where they are, but for a few, when images are added. groups: one per image; each group gives
    its share, rounded by largest remainder. None: the whole set is one group.

    Returns `[N]`, true for what is held out. Raises ValueError for less than two images."""
    if len(names) < 2:
        raise ValueError(f"{len(names)} image, expected at least 2 to split")
    members: dict[Hashable, list[int]] = {}
    for index, group in enumerate(groups if groups is not None else [None] * len(names)):
        members.setdefault(group, []).append(index)
    count = min(max(1, round(fraction * len(names))), len(names) - 1)
    exact = [len(group) * count / len(names) for group in members.values()]
    shares = [int(share) for share in exact]
    remainders = np.array([share - whole for share, whole in zip(exact, shares, strict=True)])
    for place in np.argsort(-remainders, kind="stable")[: count - sum(shares)].tolist():
        shares[place] += 1
    chosen = np.zeros(len(names), bool)
    for indices, share in zip(members.values(), shares, strict=True):
        chosen[sorted(indices, key=lambda index: _rank(names[index], seed))[:share]] = True
    return chosen


def _rank(name: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:".encode() + name.encode(errors="surrogateescape")).digest()
