"""What every strategy does, and the state that it leaves in the ledger."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from search.messages import Proposal, Result


class State(NamedTuple):
    """All that a strategy knows: tensors by name, and values that JSON can hold.

    Nobody changes the tensors afterwards. A strategy gives the same dictionary as long as they are the same
    ones, so that they need not be written again.
    """

    tensors: dict[str, Tensor]
    values: dict[str, Any]


NO_TENSORS: dict[str, Tensor] = {}
"""Of strategies that have none; always the same dictionary."""


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
        """Raises ValueError, and changes nothing, for a state with other tensors or values than its own."""
        ...


def check_state(state: State, shapes: Mapping[str, tuple[int, ...]], values: Collection[str]) -> None:
    """Raises ValueError unless a state has exactly these tensors and values."""
    found = {name: tuple(tensor.shape) for name, tensor in state.tensors.items()}
    if found != shapes:
        raise ValueError(f"strategy state has the tensors {found}, this configuration has {shapes}")
    if state.values.keys() != set(values):
        raise ValueError(f"strategy state has the values {[*state.values]}, this strategy has {[*values]}")
