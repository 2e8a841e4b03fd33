"""What travels between the parts of a search: proposals, costs, tasks, results, failures.

Nothing here knows a strategy, an executor or the ledger.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from backbones.genotype import Genotype
from backbones.ranges import ConfigError


class Failure(StrEnum):
    """Why a child has no reward.

    `rejected` children cost more than a limit allows and are never run. `invalid`, the doing of the cell or
    of the evaluator's code on any machine, and `not finite` are final at once. The next three count only
    when repeated alone on a device. A lost host is never the child's doing: the child is retried.
    """

    REJECTED = "rejected"
    INVALID = "invalid"
    NOT_FINITE = "not finite"
    OUT_OF_MEMORY = "out of memory"
    TIMEOUT = "timeout"
    CRASH = "crash"
    HOST_LOST = "host lost"


FINAL_AT_ONCE = frozenset({Failure.REJECTED, Failure.INVALID, Failure.NOT_FINITE})


class ResultError(ValueError):
    """Raised for a `Result` with both a reward and a failure, or with neither, and for an unknown failure."""


class ChildFailed(Exception):
    """Raised by an evaluator to end a child with a typed failure."""

    def __init__(self, failure: Failure, detail: str):
        try:
            self.failure = Failure(failure)
        except ValueError as error:
            raise ResultError(f"{error}, expected one of {', '.join(Failure)}") from None
        self.detail = str(detail)
        super().__init__(self.failure, self.detail)  # both, so that it can be pickled

    def __str__(self) -> str:
        return f"{self.failure}: {self.detail}"


@dataclass(frozen=True)
class Proposal:
    """A genotype that a strategy wants scored.

    number: 0, 1, ... in the order of proposing; all chance in making it comes from (seed, number).
    decisions: `[T]`, option chosen at each step of `search.space`.
    log_prob: natural logarithm of its probability under the policy that drew it; None without a policy.
    log_probs: `[T]`, that of each decision given those before it, exact in float32; None where not needed.
    """

    number: int
    genotype: Genotype
    decisions: tuple[int, ...]
    log_prob: float | None = None
    log_probs: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Cost:
    """What the network of a child is predicted to cost, known before it runs.

    microseconds: run time; only ratios between children count. multiply_adds, activation_bytes: of one image.
    latency_ms: of the network that a search may time; None where nobody asked.
    """

    microseconds: int
    parameters: int
    multiply_adds: int
    activation_bytes: int
    latency_ms: float | None = None


COUNTS = ("parameters", "multiply_adds", "activation_bytes")
"""Costs that are counted on a network, and not predicted of a machine."""
TRAINING_METRICS = ("accuracy", "epochs")
"""What a child's own training reports besides its reward."""


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
class Site:
    """Where an attempt ran: a process, its device and what decides the last bits of its numbers.

    node: name of the cluster's node; the host's name where there is no cluster. capability: of the CPU, as
    PyTorch names it (`AVX2`, `AVX512`), or of the GPU (`sm_90`).
    """

    host: str
    node: str
    pid: int
    device: str
    torch: str
    capability: str


@dataclass(frozen=True)
class Result:
    """What became of a child: a `reward`, or None and a `failure` with its `detail`.

    reward: a finite number, the larger the better; our own training gives the accuracy, in [0, 1].
    curve: validation accuracy after each epoch. seconds, cpu_seconds: wall time, and CPU time of the process.
    peak_bytes: memory high-water mark of the device, or of the process on CPU; None where unknown.
    metrics: further finite numbers by name, such as `accuracy` or `latency`. site: None where unknown.
    """

    proposal: Proposal
    reward: float | None = None
    failure: Failure | None = None
    detail: str = ""
    curve: tuple[float, ...] = ()
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_bytes: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    site: Site | None = None

    def __post_init__(self) -> None:
        if (self.reward is None) == (self.failure is None):
            raise ResultError(f"child {self.proposal.number}: a result has either a reward or a failure")


Evaluator = Callable[[Genotype, ChildTask], "Result | float"]
"""Scores a child. A bare number is its reward. It may declare `reward_range`, a pair of numbers."""

OpenEvaluator = Callable[[], Evaluator]
"""Opens the evaluator in the process that calls it; can be pickled, for workers on any machine."""

OnProgress = Callable[[int, float, int], None]
"""Called with a child's number, epochs done and epochs in all."""


class SearchPaused(ConfigError, RuntimeError):
    """The search cannot go on by itself; everything so far is in the ledger, and starting again continues."""
