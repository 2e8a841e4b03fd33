"""The controller: an LSTM policy over the decisions of a space, and PPO. Source: 1707.07012, appendix A.

Letters: E episodes, T decisions, O options (padded to the largest decision), H hidden units.

From the paper: one layer, 100 hidden units, weights uniform in +-0.1, one softmax per decision (50 for
B = 5), PPO, learning rate 3.5e-4, entropy weight 1e-5, moving-average baseline 0.95, 20 architectures per
update, joint probability = product over all softmaxes. Choices beyond the paper:

1. Each sampled option is embedded and is the next step's input; the first input is a learned vector.
   As in NAS (1611.01578, section 3.1).
2. Softmaxes have weights of their own per decision ("50 softmaxes"); embeddings are shared by decisions of a
   kind (state, operation, combination), whose options mean the same thing everywhere.
3. Adam with its usual constants, clip 0.2 (1707.06347, section 6.1), 4 passes over the whole batch of 20;
   no minibatches, no advantage normalisation, no value function: the baseline is the paper's.
4. The ratio is that of whole architectures, not of single decisions: one reward, one action.
5. The old log-probability is the sampler's, stored with the child, so that late results are weighed right.
6. Entropy is exact at every step along the sampled prefix and summed over the steps.
7. The baseline holds past rewards only: it moves after each advantage is taken; it starts at the first.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from search.space import Space

IMPOSSIBLE = -1e9
"""Log-probability of an option that does not exist; finite, so that 0 * IMPOSSIBLE is 0 and not NaN."""


@dataclass(frozen=True)
class Episode:
    """One scored architecture.

    decisions: `[T]`. log_prob: summed over T, under the policy that sampled it. advantage: reward - baseline.
    """

    decisions: tuple[int, ...]
    log_prob: float
    advantage: float


class Policy(nn.Module):
    """Distribution over the decision sequences of `space`: p(d_t | d_0 .. d_{t-1}), t < T."""

    def __init__(self, space: Space, hidden: int, init: float, generator: torch.Generator):
        super().__init__()
        steps, options = space.mask().shape
        kinds = np.array(space.kinds)
        kind_sizes = [max(np.array(space.sizes)[kinds == kind]) for kind in range(3)]
        first_row = 1 + np.cumsum([0, *kind_sizes[:2]])  # row 0 is the first input
        self.embedding = nn.Embedding(1 + int(sum(kind_sizes)), hidden)
        self.lstm = nn.LSTM(hidden, hidden, batch_first=True)
        self.weight = nn.Parameter(torch.empty(steps, hidden, options))
        self.bias = nn.Parameter(torch.empty(steps, options))
        self.register_buffer("mask", torch.from_numpy(space.mask()), persistent=False)
        self.register_buffer("rows", torch.from_numpy(first_row[kinds]), persistent=False)
        self.mask: Tensor
        self.rows: Tensor
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.uniform_(-init, init, generator=generator)

    def forward(self, decisions: Tensor) -> Tensor:
        """decisions: `[E, T]` int64. Returns log-probabilities `[E, T, O]` of every option at every step."""
        inputs = torch.cat([torch.zeros_like(decisions[:, :1]), (decisions + self.rows)[:, :-1]], dim=1)
        output, _ = self.lstm(self.embedding(inputs))
        logits = torch.einsum("eth,tho->eto", output, self.weight) + self.bias
        log_probs = torch.log_softmax(logits.masked_fill(~self.mask, IMPOSSIBLE), dim=-1)
        return log_probs.masked_fill(~self.mask, IMPOSSIBLE)

    @torch.inference_mode()
    def sample(self, chance: np.ndarray) -> tuple[tuple[int, ...], float]:
        """One draw by inverting the distribution function at `chance`, `[T]` in [0, 1).

        Returns decisions `[T]` and their log-probability. One at a time: a batch would round differently
        with its size, and a proposal must not depend on how many were asked for.
        """
        lstm = self.lstm
        hidden = cell = torch.zeros(1, lstm.hidden_size)
        sizes, rows = self.mask.sum(dim=1).tolist(), self.rows.tolist()
        decisions: list[int] = []
        log_prob, row = 0.0, 0
        for step, u in enumerate(chance):
            # nn.LSTM takes four times as long for a single step.
            hidden, cell = torch.lstm_cell(
                self.embedding.weight[row : row + 1], (hidden, cell), *lstm.all_weights[0]
            )
            logits = torch.mm(hidden, self.weight[step])[0] + self.bias[step]
            log_probs = torch.log_softmax(logits[: sizes[step]], dim=0).tolist()
            cumulative = np.cumsum(np.exp(log_probs))
            choice = int(np.searchsorted(cumulative, u * cumulative[-1], side="right"))
            decisions.append(choice)
            log_prob += log_probs[choice]
            row = rows[step] + choice
        return tuple(decisions), log_prob


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
    policy: Policy,
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
