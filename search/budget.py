"""What ends a search, and what pauses it."""

from collections.abc import Callable

from backbones.ranges import KEY
from backbones.words import counted
from search.config import BudgetConfig
from search.ledger.rows import ChildRow
from search.messages import SearchPaused
from search.naming import CHILDREN, Naming


class Budget:
    """How much of a budget is used up. The failures in a row are those since the last start."""

    def __init__(
        self, config: BudgetConfig, spent: float, clock: Callable[[], float], naming: Naming = CHILDREN
    ):
        """spent: seconds of earlier runs. clock: seconds from any origin. naming: of the children."""
        self.config, self._naming = config, naming
        self._spent, self._clock, self._begun = spent, clock, clock()
        self._failures_in_a_row = 0

    def seconds(self) -> float:
        """Wall time of the search, earlier runs included."""
        return self._spent + self._clock() - self._begun

    def out_of_time(self) -> bool:
        return self.config.hours is not None and self.seconds() >= 3600 * self.config.hours

    def check_attempts(self, row: ChildRow) -> None:
        """Raises SearchPaused for a child that has had all its attempts."""
        if row.attempts >= self.config.max_attempts:
            raise SearchPaused(
                f"{self._naming.of(row.number)} was lost {counted(row.attempts, 'time')} with its host or "
                f"process; when that is cured, start again with {KEY}budget.max_attempts above "
                f"{self.config.max_attempts}"
            )

    def check_rejections(self, in_a_row: int) -> None:
        """Raises SearchPaused where the newest proposals were all above a limit."""
        if in_a_row >= self.config.rejections_in_a_row:
            raise SearchPaused(
                f"the last {counted(in_a_row, 'proposal')} cost more than {KEY}limits allow; choose "
                f"other limits in a new run_dir, or continue with {KEY}budget.rejections_in_a_row above "
                f"{in_a_row}"
            )

    def count_failure(self, row: ChildRow) -> None:
        """Counts a finished child. Raises SearchPaused when too many in a row have failed."""
        self._failures_in_a_row = self._failures_in_a_row + 1 if row.failure else 0
        if self._failures_in_a_row >= self.config.failures_in_a_row:
            raise SearchPaused(
                f"{self._naming.counted(self._failures_in_a_row)} in a row failed, the last one, "
                f"{self._naming.of(row.number)}, with {row.failure}: {row.detail}; when that is cured, start "
                f"again, if need be with {KEY}budget.failures_in_a_row above {self.config.failures_in_a_row}"
            )
