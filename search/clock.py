"""The virtual clock, which says who waits for whom."""

import heapq


class VirtualClock:
    """`workers` virtual workers, each busy with a child until its virtual finish. Times in microseconds.

    Children that finish together free their workers together: those start one group of proposals. A child
    without cost frees its worker at once, for the next group at the same time.
    """

    def __init__(self, workers: int):
        self.now, self.free = 0, workers
        self._busy: list[tuple[int, int]] = []

    def due(self) -> list[int]:
        """Numbers of the children whose results the next group waits for, in order of consumption."""
        return sorted(number for finish, number in self._busy if finish == self._busy[0][0])

    def advance(self) -> None:
        """Moves on to the next virtual finish."""
        self.now = self._busy[0][0]
        while self._busy and self._busy[0][0] == self.now:
            heapq.heappop(self._busy)
            self.free += 1

    def occupy(self, number: int, finish: int) -> None:
        """Gives a child to a free worker."""
        self.free -= 1
        heapq.heappush(self._busy, (finish, number))

    def busy(self) -> list[int]:
        """Numbers of the children that are not virtually finished."""
        return sorted(number for _, number in self._busy)
