"""Who scores children: our own training, or a callable of the user's."""

import inspect
import pkgutil
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from backbones.genotype import Genotype
from backbones.ranges import KEY, ConfigError
from classification.config import ImageDataConfig
from search.children.config import ChildConfig
from search.children.cost import predicted_microseconds
from search.children.images import ChildImages
from search.children.training import train_child
from search.messages import Evaluator


def evaluation(
    chosen: Mapping[str, Any] | None, data: ImageDataConfig, child: ChildConfig, seed: int
) -> tuple[Evaluator, Callable[[Genotype], int], dict[str, Any]]:
    """Who scores children, what a child is predicted to cost, and the facts about it for the ledger."""
    if chosen is None:
        images = ChildImages.open(data, child, seed)
        cost = partial(
            predicted_microseconds,
            config=child,
            images=len(images.training),
            num_classes=images.num_classes,
        )
        return partial(train_child, images=images, config=child), cost, {"split": images.record}
    arguments = dict(chosen)
    name = str(arguments.pop("_target_", ""))
    try:
        # With a colon the module's own ImportError comes through, not that of a missing attribute.
        target = pkgutil.resolve_name(":".join(name.rsplit(".", 1)))
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{KEY}evaluator._target_ = {name!r}, expected a dotted path: {error}") from None
    if not callable(target):
        raise ConfigError(f"{KEY}evaluator: {name} cannot be called")
    given = () if isinstance(target, type) else ("genotype", "task")
    try:
        inspect.signature(target).bind(*given, **arguments)
    except TypeError as error:
        raise ConfigError(f"{KEY}evaluator: {name} {error}") from None
    evaluator = target(**arguments) if isinstance(target, type) else partial(target, **arguments)
    # Only ratios count, so without an estimate of its own the cost of training on one image does.
    cost = getattr(
        evaluator, "predicted_microseconds", partial(predicted_microseconds, config=child, images=1)
    )
    return evaluator, cost, {}
