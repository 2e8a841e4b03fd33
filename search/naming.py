"""How a search speaks of its children: by their numbers, or as the cells of a study that it is a part of."""

from dataclasses import dataclass

from backbones.words import counted


@dataclass(frozen=True)
class Naming:
    """The words for one search. cells: a study's names of the children, by number; empty without a study.

    A study trains the same cells several times and ranks them by names of its own. So its trainings say
    those names, and leave their figures, files and further commands to the study."""

    cells: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """Of the line that shows the progress."""
        return "cells" if self.cells else "search"

    def of(self, number: int) -> str:
        """One child, such as `child 7`."""
        return self.cells[number] if self.cells else f"child {number}"

    def counted(self, number: int) -> str:
        """So many children, such as `3 children`."""
        return counted(number, "cell") if self.cells else counted(number, "child", "children")

    @property
    def one(self) -> str:
        """A child, as a unit."""
        return "cell" if self.cells else "child"


CHILDREN = Naming()
"""Of a search that is no part of a study."""
