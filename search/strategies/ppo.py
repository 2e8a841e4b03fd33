"""Proximal policy optimisation of a policy over decision sequences; pure functions but for `update`.

Letters: E episodes, T decisions, O options. The choices are numbered in `search.strategies.controller`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Episode:
    """One scored architecture.

    decisions, log_probs: `[T]`; the latter under the policy that sampled it. advantage: reward - baseline.
    """

    decisions: tuple[int, ...]
    log_probs: tuple[float, ...]
    advantage: float


def chosen_log_probs(log_probs: Tensor, decisions: Tensor) -> Tensor:
    """log_probs: `[E, T, O]`; decisions: `[E, T]`. Returns `[E, T]`, that of each option that was chosen."""
    return log_probs.gather(2, decisions[:, :, None]).squeeze(2)


def entropy(log_probs: Tensor) -> Tensor:
    """log_probs: `[E, T, O]`. Returns `[E]` in nats: the entropy of each step's full distribution, summed."""
    return -(log_probs.exp() * log_probs).sum(dim=(1, 2))


def ppo_loss(log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """Clipped surrogate, to be minimised; a scalar: the mean over E of the sum over A.

    log_prob, old_log_prob: `[E, A]` for A actions per architecture: 1, with the log-probabilities summed over
    its T decisions, or T. `old_log_prob` is the sampler's. advantage: `[E]`, that of each of the A actions.
    Source: 1707.06347, equation 7; the NASNet paper states no clip. Where all ratios are 1 the gradient is
    the same for both A.
    """
    ratio = (log_prob - old_log_prob).exp()
    clipped = ratio.clamp(1 - clip, 1 + clip)
    return -torch.minimum(ratio * advantage[:, None], clipped * advantage[:, None]).sum(dim=1).mean()


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
    per_decision: bool = False,
) -> None:
    """Takes `passes` optimiser steps on all episodes together.

    per_decision: each decision has a ratio of its own, clipped by itself, instead of each architecture."""

    def actions(log_probs: Tensor) -> Tensor:
        return log_probs if per_decision else log_probs.sum(dim=1, keepdim=True)

    decisions = torch.tensor([episode.decisions for episode in episodes])
    old_log_prob = actions(torch.tensor([episode.log_probs for episode in episodes]))
    advantage = torch.tensor([episode.advantage for episode in episodes])
    for _ in range(passes):
        log_probs = policy(decisions)
        log_prob = actions(chosen_log_probs(log_probs, decisions))
        surrogate = ppo_loss(log_prob, old_log_prob, advantage, clip)
        loss = surrogate - entropy_weight * entropy(log_probs).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
