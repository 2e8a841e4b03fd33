"""What a training recipe asks of Lightning's loop: L2 before clipping, averaged weights."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn


class L2Gradient(L.Callback):
    """Adds the gradient of L2 to the loss's, before both are clipped together.

    L2 is l2 / 2 times the sum of the squared weights, with the `l2` of the optimiser's groups. In TF-slim it
    is a term of the loss whose gradient is clipped; PyTorch's optimisers add their weight decay afterwards.
    Source: docs/nasnet.md, T26.
    """

    @torch.no_grad()
    def on_before_optimizer_step(
        self, trainer: L.Trainer, module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        for group in optimizer.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if weights and group.get("l2"):
                torch._foreach_add_([p.grad for p in weights], weights, alpha=group["l2"])


class ExponentialAverage(WeightAveraging):
    """Average of weights and batch-norm statistics over optimiser steps; validation and the result use it.

    The decay of step n is min(decay, (1 + n) / (10 + n)), so that short runs forget their start. The running
    means and variances are averaged like the weights, hence belong to the same moments in training.
    Source: TF-slim `train_image_classifier.py`, which averages its model variables with `num_updates`.
    """

    def __init__(self, decay: float) -> None:
        def average(averaged: Any, current: Any, num_averaged: Tensor | int) -> None:
            n = int(num_averaged)
            get_ema_multi_avg_fn(min(decay, (1 + n) / (10 + n)))(averaged, current, num_averaged)

        super().__init__(use_buffers=True, multi_avg_fn=average)

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Nothing yet: Lightning leaves this hook out when a finished run is continued."""

    def on_fit_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._copy_average_to_current(module)
