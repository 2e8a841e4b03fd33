"""What is said of a picture."""

from typing import NamedTuple


class Guess(NamedTuple):
    """label: in 0..K-1. name: of the class. probability: in 0..1."""

    label: int
    name: str
    probability: float
