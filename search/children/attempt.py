"""One run of an evaluator: whatever it does becomes a result that the ledger can hold."""

import dataclasses
import math
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch

from backbones.genotype import GenotypeError
from backbones.words import printable
from search.children.site import here
from search.messages import ChildFailed, ChildTask, Evaluator, Failure, OnProgress, Result, ResultError

LONGEST_DETAIL = 2_000
"""Characters of a failure's text that are kept."""

OF_THE_PROGRAM = (TypeError, AttributeError, NameError)
"""Errors that say that code is wrong. Others, a ValueError of a file that was read too early among them, may
come from the machine or from what else runs there."""

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
    error's type and text stay in `detail`. Numbers of NumPy and one-element tensors become floats; one that
    is not finite is a failure, and so is a reward outside the `reward_range` that the evaluator declares.
    Times that the result leaves out are those of the call.
    What is the evaluator's own doing, wherever it runs, is `invalid`, which is tried once: whatever it made
    or returned that is no result of this child, and OF_THE_PROGRAM.
    """
    number = task.proposal.number
    begun, cpu_begun = time.monotonic(), time.process_time()
    token = _listener.set(on_progress and (lambda done, epochs: on_progress(number, done, epochs)))
    try:
        result = _judged(evaluator(task.proposal.genotype, task), task, evaluator)
    except ChildFailed as error:
        result = Result(task.proposal, failure=error.failure, detail=error.detail)
    except (GenotypeError, ResultError) as error:
        result = Result(task.proposal, failure=Failure.INVALID, detail=str(error))
    except (Exception, SystemExit, GeneratorExit) as error:
        result = Result(task.proposal, failure=_kind(error), detail=_words(error))
    finally:
        _listener.reset(token)
    return dataclasses.replace(
        result,
        detail=printable(result.detail)[:LONGEST_DETAIL],
        seconds=result.seconds or time.monotonic() - begun,
        cpu_seconds=result.cpu_seconds or time.process_time() - cpu_begun,
        site=here(getattr(evaluator, "device", "cpu")),
    )


def _judged(returned: Any, task: ChildTask, evaluator: Evaluator) -> Result:
    """Raises ChildFailed for what is no result of this child."""
    try:
        return _coerced(returned, task, evaluator)
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ChildFailed(Failure.INVALID, _words(error)) from None


def _coerced(returned: Any, task: ChildTask, evaluator: Evaluator) -> Result:
    """Raises TypeError, ValueError or ChildFailed for what is no result of this child."""
    if returned is None:
        raise TypeError("the evaluator returned None, expected a number or a Result")
    if not isinstance(returned, Result):
        returned = Result(task.proposal, reward=returned)
    if returned.proposal.number != task.proposal.number:
        raise TypeError(f"expected the result of child {task.proposal.number}, got {returned!r:.200}")
    reward = None if returned.reward is None else _finite("reward", returned.reward)
    low, high = getattr(evaluator, "reward_range", (-math.inf, math.inf))
    if reward is not None and not low <= reward <= high:
        raise ValueError(f"reward = {reward}, must be in {low}..{high}, as the evaluator declares")
    metrics = {str(name): _finite(f"metrics[{name!r}]", value) for name, value in returned.metrics.items()}
    peak = returned.peak_bytes
    return Result(
        task.proposal,
        reward,
        failure=None if returned.failure is None else Failure(returned.failure),
        detail=str(returned.detail),
        curve=tuple(_finite(f"curve[{i}]", value) for i, value in enumerate(returned.curve)),
        seconds=_amount("seconds", returned.seconds),
        cpu_seconds=_amount("cpu_seconds", returned.cpu_seconds),
        peak_bytes=None if peak is None else min(int(_amount("peak_bytes", peak)), 2**62),
        metrics=metrics,
    )


def _amount(name: str, value: Any) -> float:
    number = _finite(name, value)
    if number < 0:
        raise ValueError(f"{name} = {number:g}, must be at least 0")
    return number


def _finite(name: str, value: Any) -> float:
    is_complex = isinstance(value, torch.Tensor) and value.is_complex()  # its float() is no TypeError
    # float("0.5") would read a text.
    if isinstance(value, str | bytes | bool | np.bool_) or value is None or is_complex:
        raise TypeError(f"{name} is {value!r:.80}, expected a number")
    try:
        number = float(value.detach() if isinstance(value, torch.Tensor) else value)
    except (TypeError, ValueError) as error:  # lists, arrays of many elements
        raise TypeError(f"{name} is {value!r:.80}, expected a number ({error})") from None
    if not math.isfinite(number):
        raise ChildFailed(Failure.NOT_FINITE, f"the evaluator returned {name} = {number}")
    return number


def _words(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # an error of the user's own whose text fails
        return type(error).__name__


def _kind(error: BaseException) -> Failure:
    if _is_out_of_memory(error):
        return Failure.OUT_OF_MEMORY
    return Failure.INVALID if isinstance(error, OF_THE_PROGRAM) else Failure.CRASH


def _is_out_of_memory(error: BaseException) -> bool:
    # The CPU allocator raises a plain RuntimeError.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in _words(error)
