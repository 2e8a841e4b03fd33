"""The most probable classes of image files by an exported network, without PyTorch."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from backbones.exported import Exported
from classification.guesses import Guess
from runtime.pictures import read


def predict(
    network: Exported, paths: Sequence[Path], *, top: int = 5
) -> Iterator[tuple[Path, list[Guess] | Exception]]:
    """As `file_predictions.predict`, one image at a time."""
    for path in paths:
        try:
            probabilities = read(path, network.probabilities)
        except (ValueError, OSError) as error:
            yield path, error
            continue
        names = network.classes or [f"class {label}" for label in range(len(probabilities))]
        best = np.argsort(-probabilities, kind="stable")[:top]
        yield path, [Guess(int(k), names[k], float(probabilities[k])) for k in best]
