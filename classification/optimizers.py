"""The optimisers and schedules that a training recipe names."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from classification.config import RecipeConfig


def build_optimizer(recipe: RecipeConfig, network: nn.Module) -> torch.optim.Optimizer:
    """For sgd and rmsprop, whose L2 is part of the loss, `L2Gradient` must run before each step."""
    if recipe.optimizer == "adamw":
        groups = decay_groups(network, recipe.weight_decay)
        return torch.optim.AdamW(groups, lr=recipe.scaled_lr, betas=(recipe.momentum, recipe.adam_decay))
    decayed = decay_groups(network, recipe.weight_decay)
    groups = [{"params": group["params"], "l2": group["weight_decay"]} for group in decayed]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.scaled_lr, momentum=recipe.momentum)
    return TFRMSProp(
        groups,
        lr=recipe.scaled_lr,
        decay=recipe.rms_decay,
        momentum=recipe.momentum,
        epsilon=recipe.rms_epsilon,
    )


def build_schedule(recipe: RecipeConfig, optimizer: torch.optim.Optimizer, steps_per_epoch: int) -> LambdaLR:
    """A schedule to be stepped after every optimiser step."""
    warmup = round(recipe.warmup_epochs * steps_per_epoch)
    steps = recipe.epochs * steps_per_epoch - warmup
    period = recipe.lr_decay_epochs * steps_per_epoch

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if recipe.schedule == "cosine":
            return cosine(step - warmup, steps)
        return recipe.lr_decay ** math.floor(step / period)

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
