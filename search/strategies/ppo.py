"""Proximal policy optimisation of a policy over decision sequences; pure functions but for `update`.

Letters: E episodes, T decisions, O options. The choices are numbered in `search.strategies.controller`.

Results come late: a child was drawn by the policy of some updates ago. The surrogates differ in how they
weigh that. All of them have, at the policy that drew the children, the gradient of REINFORCE.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Episode:
    """One scored architecture.

    decisions: `[T]`. log_probs: `[T]`, under the policy that drew it. advantage: reward - baseline.
    """

    decisions: tuple[int, ...]
    log_probs: tuple[float, ...]
    advantage: float


Surrogate = Callable[[Tensor, Tensor, Tensor, float], Tensor]
"""(log-probabilities of the decisions `[E, T]`, the sampler's `[E, T]`, advantage `[E]`, clip) -> a scalar to
be minimised, the mean over E."""


def chosen(log_probs: Tensor, decisions: Tensor) -> Tensor:
    """log_probs: `[E, T, O]`; decisions: `[E, T]`. Returns `[E, T]`, those of what was chosen."""
    return log_probs.gather(2, decisions[:, :, None]).squeeze(2)


def entropy(log_probs: Tensor) -> Tensor:
    """log_probs: `[E, T, O]`. Returns `[E]` in nats: the entropy of each step's full distribution, summed."""
    return -(log_probs.exp() * log_probs).sum(dim=(1, 2))


def by_decision(log_probs: Tensor, old: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """PPO's clipped surrogate with a ratio for each decision, summed over T: 1707.06347, equation 7."""
    return _clipped(log_probs - old, advantage[:, None], clip).sum(dim=1).mean()


def by_architecture(log_probs: Tensor, old: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """PPO's clipped surrogate with one ratio for each architecture: one reward, one action."""
    return _clipped((log_probs - old).sum(dim=1), advantage, clip).mean()


def dropping(log_probs: Tensor, old: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """One ratio for each architecture; those outside the clip, on either side, teach nothing."""
    ratio = (log_probs - old).sum(dim=1).exp()
    return -torch.where((ratio - 1).abs() <= clip, ratio * advantage, 0.0).mean()


def vtrace(log_probs: Tensor, old: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """Policy gradient with V-trace's importance weights, truncated at 1; `clip` has no part in it.

    The reward comes with the last decision and the value is the baseline throughout, so decision t has the
    weight min(1, ratio_t) x ... x min(1, ratio_T). Source: 1802.01561, section 4.1.
    """
    del clip
    truncated = (log_probs.detach() - old).clamp(max=0)
    weight = truncated.flip(1).cumsum(dim=1).flip(1).exp()
    return -(weight * advantage[:, None] * log_probs).sum(dim=1).mean()


SURROGATES: Mapping[str, Surrogate] = {
    "decision": by_decision,
    "architecture": by_architecture,
    "drop": dropping,
    "vtrace": vtrace,
}
"""By the names of `search.strategies.config.RATIOS`."""


def _clipped(log_ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    ratio = log_ratio.exp()
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def next_baseline(baseline: float | None, reward: float, decay: float) -> float:
    """Moving average of past rewards after one more; None before the first."""
    return reward if baseline is None else decay * baseline + (1 - decay) * reward


def update(
    policy: nn.Module,
    optimizer: torch.optim.Optimizer,
    episodes: list[Episode],
    *,
    passes: int,
    ratio: str,
    clip: float,
    entropy_weight: float,
) -> None:
    """Takes `passes` optimiser steps on all episodes together."""
    decisions = torch.tensor([episode.decisions for episode in episodes])
    old = torch.tensor([episode.log_probs for episode in episodes])
    advantage = torch.tensor([episode.advantage for episode in episodes])
    for _ in range(passes):
        log_probs = policy(decisions)
        surrogate = SURROGATES[ratio](chosen(log_probs, decisions), old, advantage, clip)
        loss = surrogate - entropy_weight * entropy(log_probs).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
