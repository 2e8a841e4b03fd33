"""One run of an evaluator, whose every failure becomes a result; how far it is, while it runs."""

from collections.abc import Callable
from contextvars import ContextVar

import torch

from backbones.genotype import GenotypeError
from search.messages import ChildFailed, ChildTask, Evaluator, Failure, OnProgress, Result

_listener: ContextVar[Callable[[float, int], None] | None] = ContextVar("listener", default=None)


def report_progress(epochs_done: float, epochs: int) -> None:
    """Shows how far the child that runs in this process is. An evaluator may call it after every step.

    Display only: no result depends on it."""
    if (listener := _listener.get()) is not None:
        listener(epochs_done, epochs)


def attempt(evaluator: Evaluator, task: ChildTask, on_progress: OnProgress | None = None) -> Result:
    """Returns what `evaluator` returns, or what it raised as a typed failure. Interrupts pass through.

    on_progress: receives what the evaluator gives to `report_progress`.
    Whatever a random network can do to its own training has to end as a result, hence the wide net: the
    error's type and text stay in `detail`.
    """
    number = task.proposal.number
    token = _listener.set(on_progress and (lambda done, epochs: on_progress(number, done, epochs)))
    try:
        result = evaluator(task.proposal.genotype, task)
        if not isinstance(result, Result) or result.proposal.number != number:
            raise TypeError(f"expected the Result of child {number}, got {result!r:.200}")
        return result
    except ChildFailed as error:
        return Result(task.proposal, failure=error.failure, detail=error.detail)
    except GenotypeError as error:
        return Result(task.proposal, failure=Failure.INVALID, detail=str(error))
    except Exception as error:
        failure = Failure.OUT_OF_MEMORY if _is_out_of_memory(error) else Failure.CRASH
        return Result(task.proposal, failure=failure, detail=f"{type(error).__name__}: {error}")
    finally:
        _listener.reset(token)


def _is_out_of_memory(error: Exception) -> bool:
    # The CPU allocator raises a plain RuntimeError.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
