"""What travels between the parts of a search: proposals, tasks, results, failures. And how chance is drawn.

Nothing here knows a strategy, an executor or the ledger.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import torch

from backbones.genotype import Genotype, GenotypeError


class Failure(StrEnum):
    """Why a child has no reward. The first two are its own doing and final at once; the next three count
    only when repeated alone on a device; the last is never the child's doing and only ever retried."""

    INVALID = "invalid"
    NOT_FINITE = "not finite"
    OUT_OF_MEMORY = "out of memory"
    TIMEOUT = "timeout"
    CRASH = "crash"
    HOST_LOST = "host lost"


FINAL_AT_ONCE = frozenset({Failure.INVALID, Failure.NOT_FINITE})


class ChildFailed(Exception):
    """Raised by an evaluator to end a child with a typed failure."""

    def __init__(self, failure: Failure, detail: str):
        super().__init__(f"{failure.value}: {detail}")
        self.failure, self.detail = failure, detail


@dataclass(frozen=True)
class Proposal:
    """A genotype that a strategy wants scored.

    number: 0, 1, ... in the order of proposing; all chance in making it comes from (seed, number).
    decisions: `[T]`, option chosen at each step of `search.space`.
    log_prob: natural logarithm of its probability under the policy that drew it; None without a policy.
    """

    number: int
    genotype: Genotype
    decisions: tuple[int, ...]
    log_prob: float | None = None


@dataclass(frozen=True)
class ChildTask:
    """One run of one child.

    seed: derives from (search seed, canonical cell); a repeated run has the same one.
    attempt: runs of this child begun before this one, as the ledger counted them.
    alone: the child has failed beside others and now needs a device for itself.
    """

    proposal: Proposal
    seed: int
    attempt: int = 0
    alone: bool = False


@dataclass(frozen=True)
class Result:
    """What became of a child: `reward` in [0, 1], or None and a `failure` with its `detail`.

    curve: validation accuracy after each epoch. seconds: wall time. peak_bytes: memory high-water mark of
    the device, or of the process on CPU; None where unknown.
    """

    proposal: Proposal
    reward: float | None = None
    failure: Failure | None = None
    detail: str = ""
    curve: tuple[float, ...] = field(default=())
    seconds: float = 0.0
    peak_bytes: int | None = None

    def __post_init__(self) -> None:
        if (self.reward is None) == (self.failure is None):
            raise ValueError(f"child {self.proposal.number}: a result has either a reward or a failure")


Evaluator = Callable[[Genotype, ChildTask], Result]


def attempt(run: Callable[[], Result], task: ChildTask) -> Result:
    """What `run()` returns, or what it raised as a typed failure. Interrupts pass through.

    Whatever a random network can do to its own training has to end as a result, hence the wide net: the
    error's type and text stay in `detail`.
    """
    try:
        result = run()
        if not isinstance(result, Result) or result.proposal.number != task.proposal.number:
            raise TypeError(f"expected the Result of child {task.proposal.number}, got {result!r:.200}")
        return result
    except ChildFailed as error:
        return Result(task.proposal, failure=error.failure, detail=error.detail)
    except GenotypeError as error:
        return Result(task.proposal, failure=Failure.INVALID, detail=str(error))
    except Exception as error:
        failure = Failure.OUT_OF_MEMORY if _is_out_of_memory(error) else Failure.CRASH
        return Result(task.proposal, failure=failure, detail=f"{type(error).__name__}: {error}")


def _is_out_of_memory(error: Exception) -> bool:
    # The CPU allocator raises a plain RuntimeError.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def derive(seed: int, *parts: str | int) -> int:
    """A seed in [0, 2**63) for the purpose that `parts` name; equal on every machine and version."""
    return int.from_bytes(_digest(seed, parts)[:8], "big") >> 1


def uniforms(count: int, seed: int, *parts: str | int) -> np.ndarray:
    """`[count]` float64 in [0, 1), a pure function of the arguments: raw Philox words, whose stream NumPy
    keeps stable, as it does not promise for `Generator`'s methods."""
    words = np.random.Philox(key=int.from_bytes(_digest(seed, parts)[:16], "big")).random_raw(count)
    return (words >> np.uint64(11)) * 2.0**-53


def _digest(seed: int, parts: tuple[str | int, ...]) -> bytes:
    return hashlib.sha256(json.dumps([seed, *parts]).encode()).digest()


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Runs the block with `count` CPU threads in torch: sums change in their last bits with the count."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
