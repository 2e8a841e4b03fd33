"""Strategies: what to try next, given what came back. One protocol; the controller and random search."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from runtime.device import torch_threads
from runtime.random import derive, uniforms
from search.config import ControllerConfig, RandomConfig
from search.messages import Proposal, Result
from search.space import Space
from search.strategies.ppo import Episode, Policy, next_baseline, update


class State(NamedTuple):
    """All that a strategy knows: tensors by name, and values that JSON can hold."""

    tensors: dict[str, Tensor]
    values: dict[str, Any]


class Strategy(Protocol):
    """Proposes genotypes, learns from results.

    Results may come late, out of order, or never; each comes once. A failed child is a result with
    `reward None`, and each strategy says what it does with it. Laws, tested for all by `StrategyContract`:
    proposals are numbered from 0 without gaps and depend only on seed, configuration and what was observed
    before; `propose(a)` then `propose(b)` is `propose(a + b)`; `state_dict()` after any call is enough to go
    on in a new process as if nothing had happened.
    """

    def propose(self, n: int, pending: Sequence[Proposal]) -> list[Proposal]:
        """The next `n` proposals. pending: those proposed before whose results were not observed yet."""
        ...

    def observe(self, results: Sequence[Result]) -> None:
        """Learns from results, in this order."""
        ...

    def state_dict(self) -> State: ...

    def load_state_dict(self, state: State) -> None:
        """Raises ValueError, and changes nothing, for a state of another space or configuration."""
        ...


class RandomSearch:
    """Draws every decision uniformly and learns nothing; a failed child means nothing to it."""

    def __init__(self, config: RandomConfig, space: Space, seed: int):
        """config: has no keys of its own."""
        self._space, self._seed, self._proposed = space, seed, 0

    def propose(self, n: int, pending: Sequence[Proposal]) -> list[Proposal]:
        first, self._proposed = self._proposed, self._proposed + n
        draws = [(number, self._space.sample(self._seed, number)) for number in range(first, first + n)]
        return [Proposal(i, self._space.decode(draw), draw, -self._space.entropy) for i, draw in draws]

    def observe(self, results: Sequence[Result]) -> None:
        del results

    def state_dict(self) -> State:
        return State({}, {"proposed": self._proposed})

    def load_state_dict(self, state: State) -> None:
        self._proposed = state.values["proposed"]


class Controller:
    """The paper's controller: see `search.controller`.

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

    def state_dict(self) -> State:
        tensors = {f"policy.{name}": tensor for name, tensor in self._policy.state_dict().items()}
        for index, moments in self._optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{name}": tensor for name, tensor in moments.items()}
        values = {
            "proposed": self._proposed,
            "updates": self._updates,
            "baseline": self._baseline,
            "batch": [asdict(episode) for episode in self._batch],
        }
        with torch_threads(1):  # copies, too, wait for a second thread on a busy machine
            return State({name: tensor.clone() for name, tensor in tensors.items()}, values)

    def load_state_dict(self, state: State) -> None:
        policy = _with_prefix(state.tensors, "policy.")
        shapes = {name: tuple(tensor.shape) for name, tensor in policy.items()}
        expected = {name: tuple(tensor.shape) for name, tensor in self._policy.state_dict().items()}
        if shapes != expected:
            raise ValueError(f"controller state has the tensors {shapes}, this configuration has {expected}")
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _with_prefix(state.tensors, "adam.").items():
            index, kind = name.split(".")
            moments.setdefault(int(index), {})[kind] = tensor.clone()
        self._policy.load_state_dict(policy)
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": moments, "param_groups": groups})
        values = state.values
        self._proposed, self._updates = values["proposed"], values["updates"]
        self._baseline = values["baseline"]
        self._batch = [
            Episode(**{**entry, "decisions": tuple(entry["decisions"])}) for entry in values["batch"]
        ]


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
