"""What a network said of every image of a set, and the metrics that follow from it.

Letters: N images, K classes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from classification.metrics import TOP


@dataclass(frozen=True)
class Predictions:
    """One entry for each image, in the set's order, whatever batches they came in.

    num_classes: K. labels, predicted: `[N]` int64, the true and the most probable class. in_top5: `[N]` bool,
    whether the true class is among the 5 most probable. loss: `[N]` float64, cross entropy without smoothing,
    so the true class had probability exp(-loss). probability: `[N]` float64, of `predicted`, in 0..1.
    """

    num_classes: int
    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    in_top5: NDArray[np.bool_]
    loss: NDArray[np.float64]
    probability: NDArray[np.float64]

    @classmethod
    def join(cls, num_classes: int, batches: Sequence[dict[str, Tensor]]) -> "Predictions":
        """batches: what `of_batch` gave, at least one."""
        columns = {key: torch.cat([batch[key] for batch in batches]).cpu().numpy() for key in batches[0]}
        return cls(num_classes, **columns)

    @staticmethod
    def of_batch(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Of `[N, K]` and `[N]`, still on their device; nothing waits for it."""
        best = logits.topk(min(TOP, logits.shape[1])).indices
        log_probabilities = functional.log_softmax(logits.double(), dim=1)
        predicted = best[:, 0]
        return {
            "labels": labels,
            "predicted": predicted,
            "in_top5": (best == labels[:, None]).any(dim=1),
            "loss": -log_probabilities.gather(1, labels[:, None])[:, 0],
            "probability": log_probabilities.gather(1, predicted[:, None])[:, 0].exp(),
        }

    def __len__(self) -> int:
        return len(self.labels)

    def metrics(self) -> dict[str, float]:
        """`{top1, top5, loss}`: shares of the images in 0..1 and the mean loss; top5 above 5 classes.

        The sums are exact, so that the order of the images changes no digit.
        """
        shares = {"top1": int((self.predicted == self.labels).sum()) / len(self)}
        if self.num_classes > TOP:  # else it is always 1
            shares["top5"] = int(self.in_top5.sum()) / len(self)
        return {**shares, "loss": math.fsum(self.loss) / len(self)}

    def per_class(self) -> list[float | None]:
        """Accuracy of each class in 0..1, None where there is no image of it."""
        seen = np.bincount(self.labels, minlength=self.num_classes)
        right = np.bincount(self.labels[self.predicted == self.labels], minlength=self.num_classes)
        return [int(r) / int(n) if n else None for r, n in zip(right, seen, strict=True)]
