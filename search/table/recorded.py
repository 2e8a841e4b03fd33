"""Rewards of searches that were run before: what was recorded, and for other cells what a surrogate predicts.

`python -m search evaluator=recorded` answers from the table of trained cells that ships with the project.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from backbones.genotype import Genotype
from backbones.ranges import KEY, ConfigError
from backbones.words import counted
from runtime.folder import differences
from runtime.random import normals
from search.children.config import ChildConfig
from search.children.cost import predicted_cost
from search.history import History, experiment
from search.ledger.located import located
from search.ledger.reader import LEDGER
from search.ledger.rows import ChildRow
from search.messages import ChildFailed, ChildTask, Failure, Result
from search.stored import stored_search
from search.table.surrogate import DEFAULT_MODEL, LEARNED_FROM, MODELS, Surrogate

SHIPPED = Path(__file__).with_name("cifar10")
"""Searches whose children are the shipped table; docs/protocol.md says what they are."""


class Trained(NamedTuple):
    """The cells of some searches. rows: all children that are done, by cell, the first of each.

    learned: those with a reward that a surrogate learns from. child: how all were trained."""

    rows: dict[str, ChildRow]
    learned: list[ChildRow]
    child: ChildConfig
    blocks: int


class Recorded:
    """An evaluator: the recorded accuracy of a cell, or the surrogate's and noise where it was never trained.

    A cell that failed fails again, for the same reason.
    """

    def __init__(self, folders: Sequence[str] = (), model: str = DEFAULT_MODEL, noise: float = 0.0):
        """folders: of searches whose children were trained alike; none: the shipped table. model: one of
        `search.table.surrogate.MODELS`. noise: standard deviation that predictions receive, as trainings
        with other seeds have one.

        Raises ConfigError where searches differ in their children or hold too few cells."""
        if isinstance(noise, bool) or not isinstance(noise, int | float) or noise < 0:
            raise ConfigError(f"{KEY}evaluator.noise = {noise!r}, must be a number, at least 0")
        if model not in MODELS:
            raise ConfigError(f"{KEY}evaluator.model = {model!r}, expected one of {', '.join(MODELS)}")
        self._trained, self._noise = trained([Path(folder) for folder in folders] or shipped()), noise
        rows = self._trained.learned
        scores = [row.accuracy or 0.0 for row in rows]
        self._surrogate = Surrogate([row.genotype for row in rows], scores, self._trained.child, model)
        spent = [row for row in rows if row.cpu_seconds and row.cost]
        total = sum(self.predicted_microseconds(row.genotype) for row in spent)
        self._rate = sum(row.cpu_seconds for row in spent) / total if total else 0.0

    def __call__(self, genotype: Genotype, task: ChildTask) -> Result:
        if len(task.proposal.genotype.normal.blocks) > self._trained.blocks:
            raise ChildFailed(
                Failure.INVALID, f"the recorded cells have {counted(self._trained.blocks, 'block')}"
            )
        if row := self._trained.rows.get(genotype.key):
            if row.failure is not None:
                raise ChildFailed(row.failure, row.detail)
            return Result(
                task.proposal,
                row.accuracy,
                curve=row.curve,
                seconds=row.seconds,
                cpu_seconds=row.cpu_seconds,
                metrics=row.metrics,
            )
        accuracy = self._surrogate(genotype) + self._noise * float(normals(1, task.seed, "noise")[0])
        seconds = self._rate * self.predicted_microseconds(genotype)
        return Result(
            task.proposal, accuracy, detail="predicted by the surrogate", seconds=seconds, cpu_seconds=seconds
        )

    def predicted_microseconds(self, genotype: Genotype) -> int:
        """Of a training like the recorded ones; only ratios count."""
        child = self._trained.child
        return predicted_cost(genotype, child, images=child.training or 1).microseconds


def shipped() -> list[Path]:
    """Folders of the searches that ship. Raises ConfigError where there are none."""
    found = sorted(path.parent for path in SHIPPED.glob(f"*/{LEDGER}"))
    if not found:
        raise ConfigError(f"{SHIPPED}: no recorded searches ship with this version; name some as folders")
    return found


def trained(folders: Sequence[Path]) -> Trained:
    """Raises ConfigError where the searches differ in how children are trained."""
    searches = [History.read(located(folder)) for folder in folders]
    first = stored_search(searches[0].folder, run_dir="", strategy=None, executor=None)
    rows: dict[str, ChildRow] = {}
    learned: dict[str, ChildRow] = {}
    for search in searches:
        if changed := differences(_training_of(searches[0]), _training_of(search)):
            raise ConfigError(
                f"{search.folder}: trains otherwise than {searches[0].folder}: {', '.join(changed)}"
            )
        rows = {row.cell_key: row for row in search.rows if row.original is None} | rows
        if search.strategy in LEARNED_FROM:
            learned = {row.cell_key: row for row in search.unique} | learned
    return Trained(rows, list(learned.values()), first.child, first.space.blocks)


def _training_of(search: History) -> dict[str, Any]:
    """What must be equal for rewards to be compared."""
    return {
        name: value for name, value in experiment(search).items() if name in ("child", "data", "evaluator")
    }
