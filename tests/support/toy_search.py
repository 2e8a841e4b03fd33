"""Searches that take milliseconds: an analytic evaluator, an executor that scrambles, a small space."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backbones.genotype import Genotype
from classification.config import ImageDataConfig
from runtime.config import LoggerConfig
from search.children.attempt import attempt
from search.children.config import ChildConfig
from search.config import BudgetConfig, SearchConfig, SpaceConfig
from search.executors.config import InlineConfig
from search.ledger.reader import read_children
from search.messages import ChildFailed, ChildTask, Cost, Failure, OnProgress, Result
from search.strategies.config import ControllerConfig

FAVOURITE = "identity"
DIGITS = ImageDataConfig(name="digits", flip=False, crop_padding=0, train_limit=200)
TINY = ChildConfig(
    cells_per_stage=1,
    filters=4,
    image_size=8,
    epochs=2,
    batch_size=40,
    validation=40,
    batch_norm_momentum=0.3,
    device="cpu",
)
"""Real children, of a tenth of a second."""


def reward(genotype: Genotype) -> float:
    """Share of the operations that are FAVOURITE, in [0, 1]; 1 is the known optimum."""
    blocks = [*genotype.normal.blocks, *genotype.reduction.blocks]
    operations = [operation for block in blocks for operation in (block.left_op, block.right_op)]
    return operations.count(FAVOURITE) / len(operations)


class Favourite:
    """Scores by `reward`. Predicted costs differ from child to child.

    failures: by child number, the failures of its first attempts. diary: a file that receives the number of
    every child that runs, so that it is known after a kill. seen: every task, in order.
    """

    def __init__(self, failures: Mapping[int, list[str]] | None = None, diary: str | None = None):
        self.failures, self.diary = failures or {}, diary
        self.seen: list[ChildTask] = []

    def __call__(self, genotype: Genotype, task: ChildTask) -> Result:
        self.seen.append(task)
        number = task.proposal.number
        if self.diary:
            with open(self.diary, "a") as file:
                file.write(f"{number}\n")
        failures = self.failures.get(number, [])
        if task.attempt < len(failures):
            raise ChildFailed(Failure(failures[task.attempt]), "as ordered")
        return Result(task.proposal, reward=reward(genotype))

    def cost(self, genotype: Genotype) -> Cost:
        """As `search.children.evaluators` makes it of the prediction; a parameter is one FAVOURITE."""
        favourites = round(100 * reward(genotype))
        return Cost(self.predicted_microseconds(genotype), 1 + favourites, 1 + favourites, 1)

    def predicted_microseconds(self, genotype: Genotype) -> int:
        return 1_000 + int(genotype.key, 16) % 5_000


def evaluator(**settings: Any) -> dict[str, Any]:
    """`evaluator` of a configuration: Favourite with these settings."""
    return {"_target_": "toy_search.Favourite", **settings}


def score(genotype: Genotype, task: ChildTask, *, scale: float = 1.0) -> Result:
    """The same as a plain function."""
    return Result(task.proposal, reward=scale * reward(genotype))


@dataclass(frozen=True)
class Opens:
    """Opens an evaluator that is there already."""

    evaluator: Any

    def __call__(self) -> Any:
        return self.evaluator


class ScrambledExecutor:
    """`slots` tasks at a time on one device, finished in an order drawn from `seed`, or several at once."""

    dies_with_driver = True

    def __init__(self, evaluator: Any, slots: int, seed: int):
        self._evaluator, self._slots, self._random = evaluator, slots, random.Random(seed)
        self._tasks: list[ChildTask] = []

    def adopt(self, tasks: Any) -> set[int]:
        return set()

    def capacity(self) -> int:
        if any(task.alone for task in self._tasks):
            return 0
        return self._slots - len(self._tasks)

    def submit(self, task: ChildTask) -> None:
        if not self.capacity():
            raise RuntimeError("busy")
        self._tasks.append(task)

    def poll(self, on_progress: OnProgress | None = None) -> list[Result]:
        ready = [task for task in self._tasks if not task.alone] or self._tasks
        finished = self._random.sample(ready, self._random.randint(min(1, len(ready)), len(ready)))
        self._tasks = [task for task in self._tasks if task not in finished]
        return [attempt(self._evaluator, task, on_progress) for task in finished]

    def cancel(self, number: int) -> None:
        self._tasks = [task for task in self._tasks if task.proposal.number != number]

    def close(self) -> None:
        self._tasks = []


@dataclass(kw_only=True)
class ScrambledConfig:
    name: str = "scrambled"
    slots: int = 5
    seed: int = 0

    def build(self, open_evaluator: Any, search: str) -> ScrambledExecutor:
        return ScrambledExecutor(open_evaluator(), self.slots, self.seed)


def toy_config(run_dir: Any, children: int, **changes: Any) -> SearchConfig:
    """A controller search over 1-block cells of 4 operations: updates by 3 children, 4 virtual workers."""
    settings: dict[str, Any] = {
        "run_dir": str(run_dir),
        "data": None,
        "space": SpaceConfig(
            blocks=1,
            operations=[FAVOURITE, "conv_1x1", "sep_conv_3x3", "avg_pool_3x3"],
            combinations=["add"],
        ),
        "strategy": ControllerConfig(architectures_per_update=3, lr=0.01),
        "evaluator": evaluator(),
        "executor": InlineConfig(),
        "budget": BudgetConfig(children=children),
        "window": 4,
        "logger": LoggerConfig(name="none"),
    }
    return SearchConfig(**{**settings, **changes})


def history(run_dir: Any) -> list[tuple]:
    """What must not depend on workers, kills or the order of finishing."""
    return [
        (
            *(row.number, row.proposal_group, row.genotype.key, row.decisions, row.log_probs),
            *(row.start, row.finish, row.original, row.status, row.observed, row.reward, row.failure),
        )
        for row in read_children(f"{run_dir}/search.sqlite")
    ]
