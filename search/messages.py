"""What travels between the parts of a search: proposals, tasks, results, failures.

Nothing here knows a strategy, an executor or the ledger.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from backbones.genotype import Genotype
from backbones.ranges import ConfigError


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
    curve: tuple[float, ...] = ()
    seconds: float = 0.0
    peak_bytes: int | None = None

    def __post_init__(self) -> None:
        if (self.reward is None) == (self.failure is None):
            raise ValueError(f"child {self.proposal.number}: a result has either a reward or a failure")


Evaluator = Callable[[Genotype, ChildTask], Result]

OnProgress = Callable[[int, float, int], None]
"""Called with a child's number, epochs done and epochs in all."""


class SearchPaused(ConfigError, RuntimeError):
    """The search cannot go on by itself; everything so far is in the ledger, and starting again continues."""
