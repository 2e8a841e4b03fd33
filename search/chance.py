"""Whether the children of a search learn anything, or score as guessing would."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from backbones.words import counted

FACT = "chance"
"""Of the ledger: what `guess` returned, where rewards are accuracies on images that are known."""
SHARE, MOST = 0.25, 0.03
"""Accuracy above that of a guess, as a share of that and in all, which is still close to it."""
FEWEST = 3
"""Rewards of which something can be said."""


def guess(labels: Sequence[int]) -> dict[str, float]:
    """What guessing is on images with these labels: `accuracy` of always naming the most frequent class."""
    return {"accuracy": max(map(labels.count, set(labels))) / len(labels), "images": len(labels)}


def at_chance(rewards: Sequence[float], facts: Mapping[str, Any], who: str = "") -> str | None:
    """Says that children do not learn, and what to change; None where they do, or nobody knows.

    They do not where both their mean and their best are close to a guess, or nearer than chance explains.
    rewards: their accuracies. facts: of the ledger. who: they in words; empty: the newest of a search."""
    known = facts.get(FACT)
    if known is None or len(rewards) < FEWEST:
        return None
    accuracy, images = known["accuracy"], known["images"]
    near = min(SHARE * accuracy, MOST)
    error = math.sqrt(accuracy * (1 - accuracy) / images)  # of one score
    mean, best = statistics.fmean(rewards), max(rewards)
    if mean > accuracy + max(near, error) or best > accuracy + max(2 * near, 4 * error):
        return None
    who = who or f"the last {counted(len(rewards), 'child', 'children')}"
    return (
        f"{who} score {100 * mean:.1f} % on average and {100 * best:.1f} % at best; guessing "
        f"gives {100 * accuracy:.1f} %: they have learned nothing, and their rewards rank nothing. In a new "
        "run_dir raise child.epochs or child.training (images), or try another child.lr"
    )
