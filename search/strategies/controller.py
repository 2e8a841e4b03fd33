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

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from runtime.device import torch_threads
from runtime.random import derive, uniforms
from search.messages import Proposal, Result
from search.space import Space
from search.strategies.config import ControllerConfig
from search.strategies.ppo import Episode, next_baseline, update
from search.strategies.protocol import State, check_state

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


class Controller:
    """The paper's controller: a `Policy` that learns by PPO.

    A failed child is an architecture with `failed_reward`: the policy should learn to avoid it.
    """

    def __init__(self, config: ControllerConfig, space: Space, seed: int):
        self._config, self._space, self._seed = config, space, seed
        generator = torch.Generator().manual_seed(derive(seed, "controller"))
        self._policy = Policy(space, config.hidden, config.init, generator)
        self._optimizer = torch.optim.Adam(self._policy.parameters(), lr=config.lr)
        self._proposed = 0
        self._updates = 0
        self._baseline: float | None = None
        self._batch: list[Episode] = []
        self._tensors = self._copies()

    def propose(self, n: int, pending: Sequence[Proposal]) -> list[Proposal]:
        proposals = []
        with torch_threads(1):
            for number in range(self._proposed, self._proposed + n):
                chance = uniforms(len(self._space.sizes), self._seed, "controller", number)
                decisions, log_prob = self._policy.sample(chance)
                proposals.append(Proposal(number, self._space.decode(decisions), decisions, log_prob))
        self._proposed += n
        return proposals

    def observe(self, results: Sequence[Result]) -> None:
        config = self._config
        for result in results:
            reward = config.failed_reward if result.reward is None else result.reward
            advantage = 0.0 if self._baseline is None else reward - self._baseline
            self._baseline = next_baseline(self._baseline, reward, config.baseline_decay)
            log_prob = result.proposal.log_prob
            if log_prob is None:
                raise ValueError(f"child {result.proposal.number} has no log-probability to learn from")
            self._batch.append(Episode(result.proposal.decisions, log_prob, advantage))
            if len(self._batch) == config.architectures_per_update:
                with torch_threads(1):
                    update(
                        self._policy,
                        self._optimizer,
                        self._batch,
                        passes=config.passes,
                        clip=config.clip,
                        entropy_weight=config.entropy_weight,
                    )
                self._batch = []
                self._updates += 1
                self._tensors = self._copies()

    def state_dict(self) -> State:
        values = {
            "proposed": self._proposed,
            "updates": self._updates,
            "baseline": self._baseline,
            "batch": [dict(vars(episode)) for episode in self._batch],
        }
        return State(self._tensors, values)

    def _copies(self) -> dict[str, Tensor]:
        """The state's tensors as they are now."""
        tensors = {f"policy.{name}": tensor for name, tensor in self._policy.state_dict().items()}
        for index, moments in self._optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{name}": tensor for name, tensor in moments.items()}
        with torch_threads(1):  # copies, too, wait for a second thread on a busy machine
            return {name: tensor.clone() for name, tensor in tensors.items()}

    def load_state_dict(self, state: State) -> None:
        tensors, values = state
        own = self._policy.state_dict()
        shapes = {f"policy.{name}": tuple(tensor.shape) for name, tensor in own.items()}
        if values.get("updates"):
            for number, parameter in enumerate(self._policy.parameters()):
                shape = tuple(parameter.shape)
                adam = {"step": (), "exp_avg": shape, "exp_avg_sq": shape}
                shapes |= {f"adam.{number}.{name}": size for name, size in adam.items()}
        check_state(state, shapes, ("proposed", "updates", "baseline", "batch"))
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _with_prefix(tensors, "adam.").items():
            index, kind = name.split(".")
            moments.setdefault(int(index), {})[kind] = tensor.clone()
        self._policy.load_state_dict(_with_prefix(tensors, "policy."))
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self._tensors = self._copies()
        self._proposed, self._updates = values["proposed"], values["updates"]
        self._baseline = values["baseline"]
        self._batch = [
            Episode(**{**entry, "decisions": tuple(entry["decisions"])}) for entry in values["batch"]
        ]


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
