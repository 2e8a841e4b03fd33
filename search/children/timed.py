"""Any evaluator, with the milliseconds of each cell's network among its metrics."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from backbones.genotype import Genotype
from search.latency.config import LATENCY, LatencyConfig
from search.latency.measure import measure
from search.messages import ChildFailed, ChildTask, Evaluator, Failure, OpenEvaluator, Result


class Timed:
    """Scores as `evaluator` does, then times the cell's network in a process of its own."""

    def __init__(self, evaluator: Evaluator, config: LatencyConfig):
        self._evaluator, self._config = evaluator, config

    def __call__(self, genotype: Genotype, task: ChildTask) -> Result:
        """Raises ChildFailed where the engine cannot run the network."""
        result = self._evaluator(genotype, task)
        if not isinstance(result, Result):
            result = Result(task.proposal, reward=result)
        if result.reward is None:
            return result
        (timing,) = measure([genotype], self._config)
        if timing.error:
            raise ChildFailed(Failure.CRASH, f"{LATENCY}: {timing.error}")
        return dataclasses.replace(result, metrics={**result.metrics, LATENCY: timing.milliseconds})

    def __getattr__(self, name: str) -> Any:  # what evaluators declare: reward_range, device
        return getattr(self.__dict__["_evaluator"], name)


@dataclasses.dataclass(frozen=True)
class OpenTimed:
    """Opens a `Timed`. It has what executors ask of the opener inside: threads, device, memory."""

    opener: OpenEvaluator
    config: LatencyConfig

    def __call__(self) -> Timed:
        return Timed(self.opener(), self.config)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("opener", "config"):  # pickle asks before there are fields
            raise AttributeError(name)
        found = getattr(self.opener, name)
        return self._shared if name == "shared" else found

    @contextmanager
    def _shared(self) -> Iterator["OpenTimed"]:
        with self.opener.shared() as opener:  # type: ignore[attr-defined]
            yield OpenTimed(opener, self.config)
