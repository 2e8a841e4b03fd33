"""Runs a search on workers whose time is virtual, and measures it.

Loop, ledger and strategy are the real ones. What is simulated is the time of the children, their predicted
one times a log-normal error, and what they score.
"""

import dataclasses
import math
import re
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

from backbones.genotype import Genotype
from backbones.ranges import KEY, ConfigError
from backbones.words import counted
from runtime.random import derive, uniforms
from search.admission import Admission
from search.budget import Budget
from search.children.cost import predicted_cost
from search.children.evaluators import OpenCallable
from search.children.reward_table import RewardTable
from search.config import BudgetConfig, LimitsConfig, SimulateConfig
from search.executors.config import SimulatedConfig
from search.ledger.reader import LEDGER
from search.ledger.rows import ChildRow
from search.ledger.writer import Ledger
from search.loop import Search
from search.messages import ChildTask, Cost, Evaluator, Proposal, Result
from search.space import Space

TRAINING_IMAGES = 45_000
"""CIFAR-10's, without those held out."""
LATE = 500
"""The last children, whose rewards say what a search has learned; at most a quarter of all."""
RANDOM_CELLS = 1000
"""By whose rewards those of the search become z-scores."""
STATUS = Path("/proc/self/status")
ARRIVAL = """order=arrival is for comparison only: proposals follow the speed of the workers, so that such a
search can be neither repeated nor resumed. Its window is the number of workers."""


@dataclass(frozen=True)
class Outcome:
    """What a simulated search came to.

    utilisation_proposing, utilisation: share of the workers' time with a child, to the last proposal and over
    all. hours: simulated. late: the last children, late_z their mean reward, in standard deviations of random
    cells' above their mean. cpu: milliseconds of the driver per child by part, the largest first.
    resident_bytes: of the driver at the end, PyTorch and all; grown_bytes: since its modules were loaded.
    Both are 0 where unknown.
    """

    utilisation_proposing: float
    utilisation: float
    hours: float
    late: int
    late_z: float
    cpu: dict[str, float]
    ledger_bytes: int
    resident_bytes: int
    grown_bytes: int
    rows: Sequence[ChildRow]


def run(config: SimulateConfig) -> dict[str, Any]:
    """Prints what the search came to; returns its figures."""
    outcome = simulate(config)
    arrival = config.order == "arrival"
    window = config.workers if arrival else config.window
    parts = ", ".join(f"{part} {milliseconds:.2f}" for part, milliseconds in outcome.cpu.items())
    lines = {
        "search": f"{counted(config.children, 'child', 'children')} by {config.strategy.name}, "
        f"{counted(config.workers, 'worker')}, window {window}, true times spread by {config.spread:g}",
        "utilisation": f"{outcome.utilisation_proposing:.1%} to the last proposal, "
        f"{outcome.utilisation:.1%} over all",
        "makespan": f"{outcome.hours:,.2f} simulated hours",
        "reward": f"z = {outcome.late_z:.2f}, last {counted(outcome.late, 'child', 'children')}; "
        "0 is random search",
        "driver": f"{sum(outcome.cpu.values()):.2f} ms of CPU per child: {parts}",
        "memory": f"ledger {outcome.ledger_bytes / 1e6:.1f} MB; driver {outcome.resident_bytes / 1e6:.0f} MB "
        f"resident, {outcome.grown_bytes / 1e6:.0f} MB of it since its modules were loaded",
    }
    for name, text in lines.items():
        print(f"{name:12} {text}")
    if arrival:
        print(ARRIVAL)
    names = ("utilisation", "utilisation_proposing", "hours", "late_z")
    return {"metrics": {name: getattr(outcome, name) for name in names}}


def simulate(config: SimulateConfig) -> Outcome:
    """Runs the whole search. Raises ConfigError for a wrong evaluator, or a ledger that exists."""
    if config.ledger_file is None:
        with tempfile.TemporaryDirectory() as folder:
            return _simulate(config, Path(folder) / LEDGER)
    if Path(config.ledger_file).exists():
        raise ConfigError(
            f"{KEY}ledger_file = {config.ledger_file}: exists, and a simulation begins a new one"
        )
    return _simulate(config, Path(config.ledger_file))


def _simulate(config: SimulateConfig, path: Path) -> Outcome:
    loaded = _resident_bytes()
    space, times, arrival = Space.of(config.space), Times(config), config.order == "arrival"
    rewards = _rewards(config, space)
    evaluator = TimedRewards(rewards, times)
    executor = SimulatedConfig(workers=config.workers).build(lambda: evaluator, "simulation")
    strategy = config.strategy.build(space, config.seed)
    # Plain asynchronous order is a virtual clock with true times and as many virtual workers as real ones.
    admission = Admission(times.true_cost if arrival else times.cost, LimitsConfig())
    watch, proposed = CpuWatch(), [0]
    with closing(Ledger(path)) as ledger:
        watch.wrap(strategy, propose="propose", observe="update", state_dict="state")
        watch.wrap(admission, enter="admission")
        watch.wrap(ledger, step="ledger", save="ledger")
        watch.wrap(executor, poll="children")
        _call_before(strategy, "propose", lambda: proposed.append(executor.now))
        search = Search(
            ledger,
            strategy,
            executor,
            admission,
            seed=config.seed,
            window=config.workers if arrival else config.window,
            budget=Budget(BudgetConfig(children=config.children), 0.0, lambda: executor.now / 1e6),
        )
        with watch.part("rest"):
            search.run()
    late = search.rows[-min(LATE, math.ceil(len(search.rows) / 4)) :]
    cpu = {part: 1e3 * seconds / len(search.rows) for part, seconds in watch.seconds.items()}
    del cpu["children"]
    return Outcome(
        utilisation_proposing=executor.utilisation(proposed[-1]),
        utilisation=executor.utilisation(executor.now),
        hours=executor.now / 3.6e9,
        late=len(late),
        late_z=_mean_z(late, config, space, rewards),
        cpu=dict(sorted(cpu.items(), key=lambda share: -share[1])),
        ledger_bytes=path.stat().st_size,
        resident_bytes=(resident := _resident_bytes()),
        grown_bytes=resident - loaded,
        rows=search.rows,
    )


class Times:
    """How long children are predicted to take, and truly take: the latter a function of cell and seed."""

    def __init__(self, config: SimulateConfig):
        self._child, self._seed = config.child, config.seed
        self._images = config.child.training or TRAINING_IMAGES
        self._sigma = math.log(config.spread) / (2 * statistics.NormalDist().inv_cdf(0.95))

    def cost(self, genotype: Genotype) -> Cost:
        """With the predicted time."""
        return predicted_cost(genotype, self._child, self._images)

    def true_cost(self, genotype: Genotype) -> Cost:
        """With the true time."""
        cost, chance = self.cost(genotype), float(uniforms(1, self._seed, "time", genotype.key)[0])
        error = math.exp(self._sigma * statistics.NormalDist().inv_cdf(max(chance, 1e-12)))
        return dataclasses.replace(cost, microseconds=max(1, round(error * cost.microseconds)))


class TimedRewards:
    """Scores as `rewards` does, in the true time."""

    def __init__(self, rewards: Evaluator, times: Times):
        self._rewards, self._times = rewards, times
        if hasattr(rewards, "reward_range"):
            self.reward_range = rewards.reward_range

    def __call__(self, genotype: Genotype, task: ChildTask) -> Result:
        result = self._rewards(genotype, task)
        if not isinstance(result, Result):
            result = Result(task.proposal, reward=result)
        return dataclasses.replace(result, seconds=self._times.true_cost(genotype).microseconds / 1e6)


def _rewards(config: SimulateConfig, space: Space) -> Evaluator:
    if config.evaluator is None:
        return RewardTable(space, config.seed)
    arguments = dict(config.evaluator)
    return OpenCallable(str(arguments.pop("_target_", "")), arguments)()


def _mean_z(rows: Sequence[ChildRow], config: SimulateConfig, space: Space, rewards: Evaluator) -> float:
    """Of those that have a reward; NaN where none has."""
    random = []
    for number in range(RANDOM_CELLS):
        seed = derive(config.seed, "random cell", number)
        decisions = space.sample(seed, 0)
        task = ChildTask(Proposal(number, space.decode(decisions), decisions), seed)
        random.append(rewards(task.proposal.genotype, task))
    numbers = [float((each.reward or 0.0) if isinstance(each, Result) else each) for each in random]
    scored = [row.reward for row in rows if row.reward is not None]
    sd = statistics.stdev(numbers)
    return (statistics.fmean(scored) - statistics.fmean(numbers)) / sd if scored and sd else math.nan


class CpuWatch:
    """CPU seconds of this process by part; what one part calls of another counts for the other alone."""

    def __init__(self) -> None:
        self.seconds = defaultdict[str, float](float)
        self._part, self._since = "", 0.0

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        outer = self._switch(name)
        try:
            yield
        finally:
            self._switch(outer)

    def wrap(self, target: Any, **parts: str) -> None:
        """parts: by method of the target."""
        for method, part in parts.items():
            setattr(target, method, wraps(inner := getattr(target, method))(self._timed(inner, part)))

    def _timed(self, inner: Any, part: str) -> Any:
        def timed(*arguments: Any, **named: Any) -> Any:
            with self.part(part):
                return inner(*arguments, **named)

        return timed

    def _switch(self, part: str) -> str:
        now, outer = time.process_time(), self._part
        if outer:
            self.seconds[outer] += now - self._since
        self._part, self._since = part, now
        return outer


def _call_before(target: Any, method: str, first: Any) -> None:
    inner = getattr(target, method)

    def both(*arguments: Any) -> Any:
        first()
        return inner(*arguments)

    setattr(target, method, both)


def _resident_bytes() -> int:
    found = re.search(r"^VmRSS:\s+(\d+) kB$", STATUS.read_text(), re.MULTILINE) if STATUS.exists() else None
    return 1024 * int(found[1]) if found else 0
