"""Accuracy and loss as sums that can be stored, so that a figure survives a restart in mid-epoch.

Letters: N images, K classes.
"""

import torch
from torch import Tensor

TOP = 5
"""Guesses of which one has to be right, where there are more classes."""


class ClassificationSums:
    """Right answers and loss so far. Adding waits for no device, reading does."""

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.reset()

    def reset(self) -> None:
        self._sums = {
            "seen": torch.zeros(self.num_classes, dtype=torch.int64),
            "right": torch.zeros(self.num_classes, dtype=torch.int64),
            "right_of_5": torch.zeros((), dtype=torch.int64),
            "loss": torch.zeros((), dtype=torch.float64),
        }

    def add(self, logits: Tensor, labels: Tensor, loss: Tensor) -> None:
        """logits: `[N, K]`. labels: `[N]`. loss: mean over these N images, a scalar."""
        hits = logits.topk(min(TOP, self.num_classes)).indices == labels[:, None]
        news = {
            "seen": labels.bincount(minlength=self.num_classes),
            "right": labels[hits[:, 0]].bincount(minlength=self.num_classes),
            "right_of_5": hits.sum(),
            "loss": loss.detach() * len(labels),
        }
        self._sums = {key: old.to(news[key].device) + news[key] for key, old in self._sums.items()}

    def metrics(self) -> dict[str, float]:
        """`{top1, top5, loss}`: shares of the images in 0..1 and the mean loss; top5 above 5 classes."""
        images = max(1, int(self._sums["seen"].sum()))
        shares = {"top1": int(self._sums["right"].sum()) / images}
        if self.num_classes > TOP:  # else it is always 1
            shares["top5"] = int(self._sums["right_of_5"]) / images
        return {**shares, "loss": float(self._sums["loss"]) / images}

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self._sums)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._sums = dict(state)
