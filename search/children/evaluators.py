"""Who scores children: our own training, or a callable of the user's."""

import dataclasses
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial, reduce
from pathlib import Path
from typing import Any, NamedTuple

from backbones.genotype import Genotype
from backbones.ranges import KEY, ConfigError
from backbones.words import clipped
from classification.config import ImageDataConfig
from runtime.device import resolve_device
from runtime.folder import differences, plain
from search.chance import guess
from search.children.config import ChildConfig
from search.children.cost import predicted_cost, predicted_memory
from search.children.images import ChildImages
from search.children.shared_images import kept_on_disk
from search.children.training import train_child
from search.config import REFERENCES
from search.messages import ChildTask, Cost, Evaluator, OpenEvaluator, Result

REFERENCE = re.compile(rf"\$\{{((?:{'|'.join(REFERENCES['evaluator'])})(?:\.\w+)*)\}}")
"""All of a text that refers to a key."""


class Evaluation(NamedTuple):
    """Who scores children, as a value.

    open: opens the evaluator in any process. cost: what a child is predicted to cost.
    facts: what the ledger keeps, by name; a search continues only with the same.
    chance: what guessing scores (`search.chance`); None where that is not known.
    """

    open: OpenEvaluator
    cost: Callable[[Genotype], Cost]
    facts: dict[str, Any]
    chance: dict[str, float] | None = None


class ChildTraining:
    """Trains children on images that are opened once."""

    reward_range = (0.0, 1.0)

    def __init__(self, images: ChildImages, config: ChildConfig):
        self.images, self._config = images, config
        self.device = str(resolve_device(config.device))

    def __call__(self, genotype: Genotype, task: ChildTask) -> Result:
        return train_child(genotype, task, self.images, self._config)


@dataclass(frozen=True)
class OpenTraining:
    """Opens the images of a search and returns who trains on them; the same object each time in a process.

    Its further attributes are what executors of several processes ask for."""

    data: ImageDataConfig
    child: ChildConfig
    seed: int

    @property
    def device(self) -> str:
        return self.child.device

    @property
    def threads(self) -> int:
        return self.child.threads

    @property
    def timeout_seconds(self) -> float | None:
        return self.child.timeout_seconds

    def predicted_memory(self, genotype: Genotype) -> int:
        return predicted_memory(genotype, self.child)

    @contextmanager
    def shared(self) -> Iterator["OpenShared"]:
        """For processes of this machine: maps files that hold the images, which exist inside this block."""
        with kept_on_disk(self().images) as folder:
            del self.__dict__["_training"]  # whose images nobody needs in this process any more
            yield OpenShared(folder, self.data, self.child)

    @cached_property
    def _training(self) -> ChildTraining:
        return ChildTraining(ChildImages.open(self.data, self.child, self.seed), self.child)

    def __call__(self) -> ChildTraining:
        """Raises ConfigError in a process on a machine whose images are not those of the driver."""
        expected, record = self.__dict__.get("record"), self._training.images.record
        if expected not in (None, record):
            found = ", ".join(differences(expected, record))
            raise ConfigError(
                f"{KEY}data.root = {self.data.root}: other images than the driver has ({found})"
            )
        return self._training

    def __getstate__(self) -> dict[str, Any]:
        """Without the images: another process opens its own, which have to be the same ones."""
        opened = {"record": self._training.images.record} if "_training" in self.__dict__ else {}
        return {name: getattr(self, name) for name in ("data", "child", "seed")} | opened


@dataclass(frozen=True)
class OpenShared:
    """`OpenTraining` on images that lie in files."""

    folder: Path
    data: ImageDataConfig
    child: ChildConfig

    def __call__(self) -> ChildTraining:
        return ChildTraining(ChildImages.load(self.folder, self.data, self.child), self.child)


@dataclass(frozen=True)
class OpenCallable:
    """Returns a callable of the user's. Raises ConfigError where there is none of that name.

    name: its dotted path; arguments: of a class its constructor's, of a function those after the two.
    """

    name: str
    arguments: Mapping[str, Any]

    def __call__(self) -> Evaluator:
        try:
            # With a colon the module's own ImportError comes through, not that of a missing attribute.
            target = pkgutil.resolve_name(":".join(self.name.rsplit(".", 1)))
        except (ImportError, AttributeError, ValueError) as error:
            raise ConfigError(
                f"{KEY}evaluator._target_ = {self.name!r}, expected a dotted path: {error}"
            ) from None
        if not callable(target):
            raise ConfigError(f"{KEY}evaluator: {self.name} cannot be called")
        given = () if isinstance(target, type) else ("genotype", "task")
        try:
            inspect.signature(target).bind(*given, **self.arguments)
        except TypeError as error:
            raise ConfigError(f"{KEY}evaluator: {self.name} {error}") from None
        if not isinstance(target, type):
            return partial(target, **self.arguments)
        try:
            return target(**self.arguments)
        except ConfigError:
            raise
        except (TypeError, ValueError, AttributeError, KeyError) as error:  # of the user's constructor
            told = ", ".join(f"{name} = {clipped(value)}" for name, value in self.arguments.items())
            raise ConfigError(
                f"{KEY}evaluator: {self.name} cannot be made with {told or 'no arguments'}: "
                f"{type(error).__name__}: {error}; HYDRA_FULL_ERROR=1 shows where"
            ) from error


def evaluation(
    chosen: Mapping[str, Any] | None, data: ImageDataConfig, child: ChildConfig, seed: int
) -> Evaluation:
    """Raises ValueError or FileNotFoundError for what is wrong with the data or the callable."""
    if chosen is None:
        training = OpenTraining(data, child, seed)
        images = training().images
        cost = partial(
            predicted_cost, config=child, images=len(images.training), num_classes=images.num_classes
        )
        labels = images.images.labels.cpu().numpy()[images.validation]
        return Evaluation(training, cost, {"split": images.record}, guess(labels.tolist()))
    known = {"data": data, "child": child, "seed": seed}
    arguments = {name: _values(value, known) for name, value in chosen.items()}
    own = OpenCallable(str(arguments.pop("_target_", "")), arguments)
    predict = getattr(own(), "predicted_microseconds", None)
    return Evaluation(own, partial(_own_cost, child=child, microseconds=predict), {})


def _values(value: Any, known: Mapping[str, Any]) -> Any:
    """References (`search.config.REFERENCES`) as what they name, and dataclasses as dictionaries."""
    if isinstance(value, Mapping):
        return {key: _values(each, known) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_values(each, known) for each in value]
    if isinstance(value, str) and (found := REFERENCE.fullmatch(value)):
        try:
            value = reduce(lambda part, key: plain(part)[key], found[1].split("."), known)
        except (KeyError, TypeError):
            raise ConfigError(f"{KEY}evaluator: {value} names no key of the search") from None
    return plain(value)


def _own_cost(genotype: Genotype, child: ChildConfig, microseconds: Callable[[Genotype], int] | None) -> Cost:
    """Only ratios count, so without an estimate of its own the cost of training on one image does."""
    cost = predicted_cost(genotype, child, images=1)
    return cost if microseconds is None else dataclasses.replace(cost, microseconds=microseconds(genotype))
