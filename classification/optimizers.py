"""A training recipe as values, and the optimisers, schedules and averaging that it names.

Recipes of the paper: docs/nasnet.md, sections 5.1 and 5.2. Their YAML files are in `conf/recipe`, beside that
of a recipe as it is usual today.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import get_ema_multi_avg_fn

OPTIMIZERS = ("sgd", "rmsprop", "adamw")


@dataclass(kw_only=True)
class RecipeConfig:
    """How a network is trained. The defaults are the paper's for CIFAR-10."""

    epochs: int = 600
    """Passes over the training images."""
    batch_size: int = 32
    """Images per optimiser step, on all devices together."""
    accumulate: int = 1
    """Backward passes per optimiser step; more need less memory for the same `batch_size`."""
    optimizer: str = "sgd"
    """`sgd`, `rmsprop` (TensorFlow's) or `adamw`."""
    lr: float = 0.025
    """Learning rate at the start, or after the warm-up."""
    lr_batch_size: int | None = None
    """Images per step that `lr` is meant for; the rate used is lr * batch_size / lr_batch_size. None: lr."""
    momentum: float = 0.9
    """Share of the last step in the next, in [0, 1); for adamw that of the old mean gradient in the new."""
    rms_decay: float = 0.9
    """Share of the old mean square in the new, for rmsprop."""
    rms_epsilon: float = 1.0
    """Added to the mean square under the root, for rmsprop."""
    adam_decay: float = 0.999
    """Share of the old mean square in the new, for adamw."""
    schedule: str = "cosine"
    """`cosine`: one half period from lr to 0. `exponential`: lr times `lr_decay` every `lr_decay_epochs`."""
    lr_decay: float = 0.97
    """Factor of the exponential schedule."""
    lr_decay_epochs: float = 2.4
    """Epochs between two of its steps."""
    warmup_epochs: float = 0.0
    """Epochs in which the rate rises linearly from near 0 to lr; the cosine falls over the rest."""
    weight_decay: float = 5e-4
    """On the weights of convolutions and linear layers, not on norms and biases: the factor of L2, as part of
    the loss, for sgd and rmsprop; for adamw it shrinks the weights by lr * weight_decay per step."""
    clip_norm: float | None = 5.0
    """Largest global norm of the gradient, L2's included; None: not clipped."""
    label_smoothing: float = 0.0
    """Share of the target that is spread over all classes, in [0, 1)."""
    auxiliary_weight: float = 0.4
    """Weight of the auxiliary head's loss; 0: no such head."""
    drop_path_keep: float = 0.6
    """Probability at the end of training that a path of the last cell is kept, in (0, 1]; 1: off."""
    dropout: float = 0.0
    """Probability of dropping a feature before the classifier, in [0, 1)."""
    ema_decay: float | None = None
    """Decay per step of the average of the weights that is evaluated and saved; None: the weights as such."""
    cutout: int = 0
    """Side in pixels of the square blanked in each training image; 0: none. Resident images only."""
    rand_augment: int = 0
    """Operations of RandAugment on each training image; 0: none, 2 is usual."""
    rand_augment_magnitude: int = 9
    """Strength of those operations, 0..30."""
    mixup_alpha: float = 0.0
    """Each batch is blended with itself in another order, by a share from Beta(alpha, alpha). 0: off."""
    cutmix_alpha: float = 0.0
    """The same with a rectangle of the other image instead; with both, each batch takes either. 0: off."""

    def __post_init__(self) -> None:
        for key in ("epochs", "batch_size", "accumulate", "lr_batch_size"):
            if (value := getattr(self, key)) is not None and value < 1:
                raise ValueError(f"recipe.{key} = {value}, must be at least 1")
        if self.batch_size % self.accumulate:
            raise ValueError(f"recipe.batch_size = {self.batch_size} is no multiple of accumulate")
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"recipe.optimizer = {self.optimizer!r}, known are {', '.join(OPTIMIZERS)}")
        if self.schedule not in ("cosine", "exponential"):
            raise ValueError(f"recipe.schedule = {self.schedule!r}, known are cosine and exponential")
        for key in ("lr", "rms_epsilon", "lr_decay", "lr_decay_epochs", "clip_norm"):
            if (value := getattr(self, key)) is not None and not value > 0:
                raise ValueError(f"recipe.{key} = {value}, must be above 0")
        for key in ("momentum", "rms_decay", "adam_decay", "label_smoothing", "dropout", "ema_decay"):
            if (value := getattr(self, key)) is not None and not 0 <= value < 1:
                raise ValueError(f"recipe.{key} = {value}, must lie in [0, 1)")
        if not 0 < self.drop_path_keep <= 1:
            raise ValueError(f"recipe.drop_path_keep = {self.drop_path_keep}, must lie in (0, 1]")
        for key in (
            "weight_decay",
            "auxiliary_weight",
            "cutout",
            "rand_augment",
            "mixup_alpha",
            "cutmix_alpha",
        ):
            if (value := getattr(self, key)) < 0:
                raise ValueError(f"recipe.{key} = {value}, must not be negative")
        if not 0 <= self.rand_augment_magnitude <= 30:
            raise ValueError(
                f"recipe.rand_augment_magnitude = {self.rand_augment_magnitude}, must lie in 0..30"
            )
        if not 0 <= self.warmup_epochs < self.epochs:
            raise ValueError(
                f"recipe.warmup_epochs = {self.warmup_epochs}, must lie in 0..{self.epochs} and below epochs"
            )

    @property
    def scaled_lr(self) -> float:
        return self.lr * self.batch_size / (self.lr_batch_size or self.batch_size)

    def build_optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        """For sgd and rmsprop, whose L2 is part of the loss, `L2Gradient` must run before each step."""
        if self.optimizer == "adamw":
            groups = decay_groups(network, self.weight_decay)
            return torch.optim.AdamW(groups, lr=self.scaled_lr, betas=(self.momentum, self.adam_decay))
        decayed = decay_groups(network, self.weight_decay)
        groups = [{"params": group["params"], "l2": group["weight_decay"]} for group in decayed]
        if self.optimizer == "sgd":
            return torch.optim.SGD(groups, lr=self.scaled_lr, momentum=self.momentum)
        return TFRMSProp(
            groups, lr=self.scaled_lr, decay=self.rms_decay, momentum=self.momentum, epsilon=self.rms_epsilon
        )

    def build_schedule(self, optimizer: torch.optim.Optimizer, steps_per_epoch: int) -> LambdaLR:
        """A schedule to be stepped after every optimiser step."""
        warmup = round(self.warmup_epochs * steps_per_epoch)
        steps = self.epochs * steps_per_epoch - warmup
        period = self.lr_decay_epochs * steps_per_epoch

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / (warmup + 1)
            if self.schedule == "cosine":
                return cosine(step - warmup, steps)
            return self.lr_decay ** math.floor(step / period)

        return LambdaLR(optimizer, factor)


def cosine(step: int, steps: int) -> float:
    """Factor on the learning rate: 1 at step 0, 0 from `steps` on. Source: 1608.03983, without restarts."""
    return 0.5 * (1 + math.cos(math.pi * min(step / steps, 1)))


def decay_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups: decay on the weights of convolutions and linear layers, none elsewhere."""
    decayed = {m.weight for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    return [
        {"params": [p for p in network.parameters() if p in decayed], "weight_decay": weight_decay},
        {"params": [p for p in network.parameters() if p not in decayed], "weight_decay": 0.0},
    ]


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


class TFRMSProp(torch.optim.Optimizer):
    """RMSProp as TensorFlow computes it, which with an epsilon of 1 is another optimiser than PyTorch's.

    ms = decay * ms + (1 - decay) * g^2, ms starting at 1
    step = momentum * step + lr * g / sqrt(ms + epsilon)
    weight = weight - step
    Source: TensorFlow's `RMSPropOptimizer`.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        *,
        decay: float = 0.9,
        momentum: float = 0.9,
        epsilon: float = 1.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "decay": decay, "momentum": momentum, "epsilon": epsilon})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if weights:
                self._step_group(weights, group)
        return loss

    def _step_group(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        for weight in weights:
            if not self.state[weight]:
                self.state[weight]["mean_square"] = torch.ones_like(weight)
                self.state[weight]["step"] = torch.zeros_like(weight)
        gradients = [p.grad for p in weights if p.grad is not None]
        mean_squares = [self.state[p]["mean_square"] for p in weights]
        steps = [self.state[p]["step"] for p in weights]
        # The foreach forms take all tensors at once: a NASNet has over a thousand.
        torch._foreach_mul_(mean_squares, group["decay"])
        torch._foreach_addcmul_(mean_squares, gradients, gradients, 1 - group["decay"])
        roots = torch._foreach_add(mean_squares, group["epsilon"])
        torch._foreach_sqrt_(roots)
        torch._foreach_mul_(steps, group["momentum"])
        torch._foreach_addcdiv_(steps, gradients, roots, group["lr"])
        torch._foreach_sub_(weights, steps)


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
