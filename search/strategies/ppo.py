"""Proximal policy optimisation of a policy over decision sequences; pure functions but for `update`.

Letters: E episodes, T decisions, O options. The choices are numbered in `search.strategies.controller`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Episode:
    """One scored architecture.

    decisions: `[T]`. log_prob: summed over T, under the policy that sampled it. advantage: reward - baseline.
    """

    decisions: tuple[int, ...]
    log_prob: float
    advantage: float


def joint_log_prob(log_probs: Tensor, decisions: Tensor) -> Tensor:
    """log_probs: `[E, T, O]`; decisions: `[E, T]`. Returns `[E]`, the sum over T of what was chosen."""
    return log_probs.gather(2, decisions[:, :, None]).squeeze(2).sum(dim=1)


def entropy(log_probs: Tensor) -> Tensor:
    """log_probs: `[E, T, O]`. Returns `[E]` in nats: the entropy of each step's full distribution, summed."""
    return -(log_probs.exp() * log_probs).sum(dim=(1, 2))


def ppo_loss(log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """Clipped surrogate, to be minimised; a scalar.

    All `[E]`, log-probabilities summed over the T decisions; `old_log_prob` is the sampler's.
    Source: 1707.06347, equation 7; the NASNet paper states no clip.
    """
    ratio = (log_prob - old_log_prob).exp()
    clipped = ratio.clamp(1 - clip, 1 + clip)
    return -torch.minimum(ratio * advantage, clipped * advantage).mean()


def next_baseline(baseline: float | None, reward: float, decay: float) -> float:
    """Moving average of past rewards after one more; None before the first."""
    return reward if baseline is None else decay * baseline + (1 - decay) * reward


def update(
    policy: nn.Module,
    optimizer: torch.optim.Optimizer,
    episodes: list[Episode],
    *,
    passes: int,
    clip: float,
    entropy_weight: float,
) -> None:
    """Takes `passes` optimiser steps on all episodes together."""
    decisions = torch.tensor([episode.decisions for episode in episodes])
    old_log_prob = torch.tensor([episode.log_prob for episode in episodes])
    advantage = torch.tensor([episode.advantage for episode in episodes])
    for _ in range(passes):
        log_probs = policy(decisions)
        surrogate = ppo_loss(joint_log_prob(log_probs, decisions), old_log_prob, advantage, clip)
        loss = surrogate - entropy_weight * entropy(log_probs).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
