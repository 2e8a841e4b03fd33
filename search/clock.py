"""The virtual clock, which says who waits for whom."""

import heapq


class VirtualClock:
    """`workers` virtual workers, each busy with a child until its virtual finish. Times in microseconds.

    Children that finish together free their workers together: those start one group of proposals. A child
    without cost frees its worker at once, for the next group at the same time.
    """

    def __init__(self, workers: int):
        self.now, self.free = 0, workers
        self._finishes: list[int] = []  # a heap, each time once
        self._numbers: dict[int, list[int]] = {}  # of the children by finish

    def due(self) -> list[int]:
        """Numbers of the children whose results the next group waits for, in order of consumption."""
        return sorted(self._numbers[self._finishes[0]])

    def advance(self) -> list[int]:
        """Moves on to the next virtual finish; returns the numbers of those whose workers are free now."""
        self.now = heapq.heappop(self._finishes)
        finished = sorted(self._numbers.pop(self.now))
        self.free += len(finished)
        return finished

    def occupy(self, number: int, finish: int) -> None:
        """Gives a child to a free worker."""
        self.free -= 1
        if finish not in self._numbers:
            self._numbers[finish] = []
            heapq.heappush(self._finishes, finish)
        self._numbers[finish].append(number)
