"""Predicts what a cell would score, learned from cells that were trained: rewards without training."""

import functools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from backbones.genotype import Genotype
from backbones.ranges import ConfigError
from backbones.words import counted
from celltransfer import not_installed
from search.children.config import ChildConfig
from search.rank_agreement import kendall_tau
from search.table.features import features

FOLDS = 10
LEARNED_FROM = ("random", "prim_skip")
"""Strategies that follow no reward: what the others propose is not spread over the space."""
FEWEST = 2 * FOLDS
"""Cells to learn from."""
MODELS = ("gaussian", "ridge", "trees", "boosting")
DEFAULT_MODEL = "gaussian"


class Surrogate:
    """The predicted score of a cell, as a function of its canonical form."""

    def __init__(
        self,
        cells: Sequence[Genotype],
        scores: Sequence[float],
        child: ChildConfig,
        model: str = DEFAULT_MODEL,
    ):
        """cells: at least FEWEST that were trained. child: how. model: one of MODELS."""
        self._child = child
        unfitted = _built(model)
        with _quiet():
            self._model = unfitted.fit(table(cells, child), np.asarray(scores))
        self._known: dict[str, float] = {}

    def __call__(self, genotype: Genotype) -> float:
        if genotype.key not in self._known:
            row = features(genotype, self._child)[None]
            self._known[genotype.key] = float(self._model.predict(row)[0])
        return self._known[genotype.key]


class Quality(NamedTuple):
    """How well a model predicts cells that it has not seen, by cross-validation.

    tau: Kendall's tau-b between prediction and score. error: root mean square. floor: that of predicting the
    mean of the other folds. predictions: `[N]`."""

    tau: float
    error: float
    floor: float
    predictions: np.ndarray


def table(cells: Sequence[Genotype], child: ChildConfig) -> np.ndarray:
    """`[N, F]`, the features of each cell."""
    if len(cells) < FEWEST:
        raise ConfigError(
            f"{counted(len(cells), 'cell')} with a reward, a surrogate needs at least {FEWEST}; it learns "
            f"from searches with strategy={' or '.join(LEARNED_FROM)} alone"
        )
    return np.stack([features(cell, child) for cell in cells])


def cross_validated(
    rows: np.ndarray, scores: np.ndarray, models: Sequence[str] = MODELS, seed: int = 0
) -> Mapping[str, Quality]:
    """Each model's quality over FOLDS random folds, which are the same for all. rows: see `table`."""
    _library()
    from sklearn.model_selection import KFold, cross_val_predict

    folds = KFold(FOLDS, shuffle=True, random_state=seed)
    mean = cross_val_predict(_mean_only(), rows, scores, cv=folds)
    found = {}
    for name in models:
        with _quiet():
            predictions = cross_val_predict(_built(name), rows, scores, cv=folds)
        found[name] = Quality(
            kendall_tau(predictions, scores), _error(predictions, scores), _error(mean, scores), predictions
        )
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the words of a Gaussian process whose scores are too few, or too smooth, for its bounds."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def _error(predictions: np.ndarray, scores: np.ndarray) -> float:
    return float(np.sqrt(np.mean((predictions - scores) ** 2)))


def _mean_only() -> Any:
    from sklearn.dummy import DummyRegressor

    return DummyRegressor()


@functools.cache
def _library() -> Any:
    try:
        import sklearn.ensemble
        import sklearn.gaussian_process
        import sklearn.linear_model
        import sklearn.pipeline
        import sklearn.preprocessing
    except ImportError:
        raise not_installed("a surrogate", "sklearn", "demo") from None
    return sklearn


def _built(name: str) -> Any:
    """An unfitted model, whose chance is seeded."""
    library = _library()
    if name == "gaussian":
        kernels = library.gaussian_process.kernels
        shape = kernels.ConstantKernel(1.0) * kernels.RBF(10.0) + kernels.WhiteKernel(0.3)
        model = library.gaussian_process.GaussianProcessRegressor(shape, normalize_y=True, random_state=0)
    elif name == "ridge":
        model = library.linear_model.RidgeCV(np.logspace(-2, 4, 25))
    elif name == "trees":
        model = library.ensemble.ExtraTreesRegressor(100, min_samples_leaf=2, random_state=0)
    else:
        model = library.ensemble.GradientBoostingRegressor(
            n_estimators=300, learning_rate=0.03, max_depth=3, subsample=0.7, random_state=0
        )
    return library.pipeline.make_pipeline(library.preprocessing.StandardScaler(), model)
