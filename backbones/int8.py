"""Quantises an OpenVINO model to int8 after training, by NNCF, from examples of its inputs.

Only what carries maps from the first convolution to the last convolutions and products is quantised: what
lies before or behind, such as normalisation, softmax, the arithmetic of boxes and NMS, stays in float32.
"""

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")

PRODUCTS = ("Convolution", "GroupConvolution", "MatMul")
"""Operators that are computed in int8; their input 0 is a map, the other one holds weights."""
ELEMENTWISE = ("Add", "Concat", "Multiply", "Maximum", "Minimum", "Subtract", "Divide")
"""Operators of which every input may be a map; of the others it is the first one."""
MOST_EXAMPLES = 300
"""More hardly move the ranges that are found."""


def spread(things: Sequence[T], count: int = MOST_EXAMPLES) -> list[T]:
    """`count` of them, or all where there are fewer, evenly over the whole."""
    count = min(count, len(things))
    return [things[place * len(things) // count] for place in range(count)]


def quantised(model: Any, examples: Sequence[T], inputs: Callable[[T], Mapping[str, NDArray[Any]]]) -> Any:
    """The model in int8. model: an `openvino.Model`, which stays as it is.

    examples: such as files of images; all in memory could be too many. inputs: makes the model's, by name."""
    os.environ.setdefault("NNCF_CI", "1")  # else it reports its use to a service on the internet
    with contextlib.redirect_stdout(sys.stderr):  # where its log goes from now on
        import nncf
    nncf.set_log_level(logging.ERROR)

    kept = _maps(model)
    names = [operator.get_friendly_name() for operator in model.get_ordered_ops()]
    ignored = nncf.IgnoredScope(names=[name for name in names if name not in kept], validate=False)
    # Its progress bars; and NumPy's warnings of its statistics, of which what int8 costs tells more.
    with contextlib.redirect_stdout(sys.stderr), np.errstate(over="ignore"):
        return nncf.quantize(
            model,
            nncf.Dataset(examples, lambda example: dict(inputs(example))),
            subset_size=len(examples),
            target_device=nncf.TargetDevice.CPU,
            ignored_scope=ignored,
        )


def _maps(model: Any) -> set[str]:
    """Names of the operators between the first convolution and the last convolutions and products."""
    products = [operator for operator in model.get_ordered_ops() if operator.get_type_name() in PRODUCTS]
    before, waiting = set(), list(products)
    while waiting:
        operator = waiting.pop()
        if (name := operator.get_friendly_name()) in before:
            continue
        before.add(name)
        waiting += _map_inputs(operator)
    behind: set[str] = set()
    for operator in model.get_ordered_ops():  # inputs first
        inputs = {each.get_friendly_name() for each in _map_inputs(operator)}
        if operator.get_type_name() in PRODUCTS or inputs & behind:
            behind.add(operator.get_friendly_name())
    return before & behind


def _map_inputs(operator: Any) -> list[Any]:
    inputs = [value.get_source_output().get_node() for value in operator.inputs()]
    return inputs if operator.get_type_name() in ELEMENTWISE else inputs[:1]
