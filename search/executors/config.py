"""The executors as values."""

from dataclasses import dataclass
from typing import ClassVar

from backbones.ranges import require
from runtime.config import Builds


@dataclass(kw_only=True)
class InlineConfig(Builds):
    """One child after the other in the search's own process."""

    builds: ClassVar[str] = "search.executors.inline:InlineExecutor"
    name: str = "inline"

    def __post_init__(self) -> None:
        require(self, "name", among=("inline",))
