"""The reward that a search maximises where a child's cost counts, too."""

import dataclasses

from search.config import ObjectiveConfig
from search.ledger.rows import ChildRow
from search.messages import Failure, Result


def weighed(result: Result, row: ChildRow, objective: ObjectiveConfig) -> Result:
    """The result with the reward `reward x (cost / target) ^ exponent`; the evaluator's own stays in the
    metric `accuracy`. Unchanged without an objective, and for a failed child.

    A child whose cost is unknown, or not above 0, is invalid. Source: MnasNet, 1807.11626, equation 2.
    """
    if objective.cost is None or objective.target is None or result.reward is None:
        return result
    known = row.costs | dict(result.metrics)
    cost = known.get(objective.cost)
    if cost is None or cost <= 0:
        found = "is not among its metrics" if cost is None else f"is {cost:g}"
        detail = f"objective.cost = {objective.cost!r} {found}: {', '.join(known)}"
        return dataclasses.replace(result, reward=None, failure=Failure.INVALID, detail=detail)
    try:
        reward = result.reward * (cost / objective.target) ** objective.exponent
    except OverflowError:
        detail = f"objective.cost = {objective.cost!r} is {cost:g}, which is too far from the target"
        return dataclasses.replace(result, reward=None, failure=Failure.INVALID, detail=detail)
    return dataclasses.replace(result, reward=reward, metrics={"accuracy": result.reward, **result.metrics})
