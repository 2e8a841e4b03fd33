"""Random numbers as pure functions of what they are for: equal on every machine, in any order."""

import hashlib
import json
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def counter_hash(*words: ArrayLike) -> NDArray[np.uint64]:
    """64 well mixed bits per element, a pure function of the words (integers or arrays that broadcast).

    Returns an array of at least one dimension. The mixing is splitmix64's (Steele, Lea, Flood 2014,
    figure 17), once per word: unlike `numpy.random`, it gives the same bits in every NumPy release.
    """
    state = np.zeros(1, np.uint64)
    for word in words:
        state = state + np.asarray(word, np.int64).astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = state ^ (state >> np.uint64(31))
    return state


def unit(words: int | NDArray[np.uint64]) -> Any:
    """64-bit words as numbers in [0, 1): a float for an int, an array of float64 for an array."""
    return (words >> 11) * 2.0**-53


def derive(seed: int, *parts: str | int) -> int:
    """A seed in [0, 2**63) for the purpose that `parts` name; equal on every machine and version."""
    return int.from_bytes(_digest(seed, parts)[:8], "big") >> 1


def uniforms(count: int, seed: int, *parts: str | int) -> np.ndarray:
    """`[count]` float64 in [0, 1), a pure function of the arguments: raw Philox words, whose stream NumPy
    keeps stable, as it does not promise for `Generator`'s methods."""
    words = np.random.Philox(key=int.from_bytes(_digest(seed, parts)[:16], "big")).random_raw(count)
    return unit(words)


def normals(count: int, seed: int, *parts: str | int) -> np.ndarray:
    """`[count]` float64 of the standard normal distribution, as `uniforms` those of the uniform one."""
    inverse = NormalDist().inv_cdf
    return np.array([inverse(min(max(u, 1e-16), 1 - 1e-16)) for u in uniforms(count, seed, *parts).tolist()])


def _digest(seed: int, parts: tuple[str | int, ...]) -> bytes:
    return hashlib.sha256(json.dumps([seed, *parts]).encode()).digest()
