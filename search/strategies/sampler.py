"""Drawing decisions from a `Policy`, one architecture at a time, in NumPy.

One at a time, since a batch would round differently with its size, and a proposal must not depend on how
many were asked for. A single step of the LSTM is then small: in PyTorch its cost is the calls, not the sums.
"""

import math

import numpy as np
import torch

from search.strategies.policy import Policy


class Sampler:
    """A policy's weights as they are now, prepared for drawing; to be made anew when they have changed.

    Letters: H hidden units, R rows of the embedding, T decisions, O_t options of decision t. Sums are
    `einsum`'s, not BLAS's, whose order may change with the number of threads.
    """

    @torch.inference_mode()
    def __init__(self, policy: Policy):
        lstm = policy.lstm
        hidden = lstm.hidden_size
        # PyTorch's order of the gates is input, forget, cell, output. A sigmoid is (1 + tanh(x / 2)) / 2, so
        # that one tanh serves all gates; halving is exact.
        order = torch.arange(4 * hidden).view(4, hidden)[[0, 1, 3, 2]].flatten()
        halves = torch.ones(4 * hidden)
        halves[: 3 * hidden] = 0.5
        input_weight, hidden_weight, *biases = lstm.all_weights[0]
        projected = policy.embedding.weight @ input_weight.T + biases[0] + biases[1]
        self._inputs = (projected[:, order] * halves).numpy()  # [R, 4H]
        self._recurrent = (hidden_weight.T[:, order] * halves).contiguous().numpy()  # [H, 4H]
        sizes = policy.mask.sum(dim=1).tolist()
        self._heads = [
            (weight[:, :size].contiguous().numpy(), bias[:size].clone().numpy(), row)
            for weight, bias, size, row in zip(
                policy.weight, policy.bias, sizes, policy.rows.tolist(), strict=True
            )
        ]  # T x ([H, O_t], [O_t], row of the first option)
        self._hidden = hidden

    def draw(self, chance: np.ndarray) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """One draw by inverting the distribution function at `chance`, `[T]` in [0, 1).

        Returns `[T]` decisions and the `[T]` natural logarithms of their probabilities, each given those
        before it, in float32's precision.
        """
        size = self._hidden
        hidden = cell = np.zeros(size, np.float32)
        decisions, log_probs, row = [], [], 0
        for u, (weight, bias, first_row) in zip(chance.tolist(), self._heads, strict=True):
            gates = np.tanh(self._inputs[row] + np.einsum("h,hg->g", hidden, self._recurrent))
            opened = 0.5 * gates[: 3 * size] + 0.5
            cell = opened[size : 2 * size] * cell + opened[:size] * gates[3 * size :]
            hidden = opened[2 * size :] * np.tanh(cell)
            logits = (np.einsum("h,ho->o", hidden, weight) + bias).astype(np.float64)
            logits -= logits.max()
            cumulative = np.exp(logits).cumsum()
            choice = int(cumulative.searchsorted(u * cumulative[-1], side="right"))
            decisions.append(choice)
            log_probs.append(float(np.float32(logits[choice] - math.log(cumulative[-1]))))
            row = first_row + choice
        return tuple(decisions), tuple(log_probs)
