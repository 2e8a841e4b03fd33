"""The LSTM policy over the decisions of a space. Source: 1707.07012, appendix A; choices: `controller`.

Letters: E episodes, T decisions, O options (padded to the largest decision), H hidden units.
"""

import numpy as np
import torch
from torch import Tensor, nn

from search.space import Space

IMPOSSIBLE = -1e9
"""Log-probability of an option that does not exist; finite, so that 0 * IMPOSSIBLE is 0 and not NaN."""


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
