"""One run of an evaluator, whose every failure becomes a result."""

import torch

from backbones.genotype import GenotypeError
from search.messages import ChildFailed, ChildTask, Evaluator, Failure, Result


def attempt(evaluator: Evaluator, task: ChildTask) -> Result:
    """Returns what `evaluator` returns, or what it raised as a typed failure. Interrupts pass through.

    Whatever a random network can do to its own training has to end as a result, hence the wide net: the
    error's type and text stay in `detail`.
    """
    try:
        result = evaluator(task.proposal.genotype, task)
        if not isinstance(result, Result) or result.proposal.number != task.proposal.number:
            raise TypeError(f"expected the Result of child {task.proposal.number}, got {result!r:.200}")
        return result
    except ChildFailed as error:
        return Result(task.proposal, failure=error.failure, detail=error.detail)
    except GenotypeError as error:
        return Result(task.proposal, failure=Failure.INVALID, detail=str(error))
    except Exception as error:
        failure = Failure.OUT_OF_MEMORY if _is_out_of_memory(error) else Failure.CRASH
        return Result(task.proposal, failure=failure, detail=f"{type(error).__name__}: {error}")


def _is_out_of_memory(error: Exception) -> bool:
    # The CPU allocator raises a plain RuntimeError.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
