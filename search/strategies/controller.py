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
4. The ratio is that of each decision, and each is clipped by itself. The paper's joint probability reads as
   one ratio per architecture (`ratio="architecture"`), of which late results leave the clip: docs/search.md.
5. The old log-probabilities are the sampler's, stored with the child, so that late results are weighed right.
6. Entropy is exact at every step along the sampled prefix and summed over the steps.
7. The baseline holds past rewards only: it moves after each advantage is taken; it starts at the first.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from runtime.device import torch_threads
from runtime.random import derive, uniforms
from search.messages import Proposal, Result
from search.space import Space
from search.strategies.config import ControllerConfig
from search.strategies.policy import Policy
from search.strategies.ppo import Episode, next_baseline, update
from search.strategies.protocol import State, check_state
from search.strategies.sampler import Sampler


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
        self._keep()

    def propose(self, n: int, pending: Sequence[Proposal]) -> list[Proposal]:
        proposals = []
        for number in range(self._proposed, self._proposed + n):
            chance = uniforms(len(self._space.sizes), self._seed, "controller", number)
            decisions, log_probs = self._sampler.draw(chance)
            genotype = self._space.decode(decisions)
            proposals.append(Proposal(number, genotype, decisions, math.fsum(log_probs), log_probs))
        self._proposed += n
        return proposals

    def observe(self, results: Sequence[Result]) -> None:
        config = self._config
        for result in results:
            reward = config.failed_reward if result.reward is None else result.reward
            advantage = 0.0 if self._baseline is None else reward - self._baseline
            self._baseline = next_baseline(self._baseline, reward, config.baseline_decay)
            log_probs = result.proposal.log_probs
            if log_probs is None:
                raise ValueError(f"child {result.proposal.number} has no log-probabilities to learn from")
            self._batch.append(Episode(result.proposal.decisions, log_probs, advantage))
            if len(self._batch) == config.architectures_per_update:
                with torch_threads(1):
                    update(
                        self._policy,
                        self._optimizer,
                        self._batch,
                        passes=config.passes,
                        ratio=config.ratio,
                        clip=config.clip,
                        entropy_weight=config.entropy_weight,
                    )
                self._batch = []
                self._updates += 1
                self._keep()

    def state_dict(self) -> State:
        values = {
            "proposed": self._proposed,
            "updates": self._updates,
            "baseline": self._baseline,
            "batch": [dict(vars(episode)) for episode in self._batch],
        }
        return State(self._tensors, values)

    def _keep(self) -> None:
        """Prepares what depends on the weights alone: the state's tensors, and the sampler."""
        tensors = {f"policy.{name}": tensor for name, tensor in self._policy.state_dict().items()}
        for index, moments in self._optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{name}": tensor for name, tensor in moments.items()}
        with torch_threads(1):  # copies, too, wait for a second thread on a busy machine
            self._tensors = {name: tensor.clone() for name, tensor in tensors.items()}
            self._sampler = Sampler(self._policy)

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
        self._keep()
        self._proposed, self._updates = values["proposed"], values["updates"]
        self._baseline = values["baseline"]
        self._batch = [
            Episode(tuple(entry["decisions"]), tuple(entry["log_probs"]), entry["advantage"])
            for entry in values["batch"]
        ]


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
