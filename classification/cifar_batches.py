"""CIFAR-10's Python batches, which are pickles, read without unpickling.

The official files, written by Python 2, hold a dictionary of byte strings, lists of numbers and of byte
strings, and one NumPy array of bytes, which takes some thirty opcodes. Only these are known here, and they
only ever build such values: nothing is imported, nothing is called.
"""

import math
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ARRAY = ("numpy.core.multiarray _reconstruct", "numpy ndarray", "numpy dtype")
"""The names that a pickled array mentions: what makes an array, its type, and the type of its elements."""
_BYTES = (b"u1", 0, 1)
"""What a file says to have of `dtype`: unsigned bytes."""
_MARK = object()


@dataclass(frozen=True)
class _Name:
    """One of the names that a pickled array mentions, as a word and nothing else."""

    text: str


@dataclass
class _Bytes:
    """`numpy.dtype("u1")`."""


@dataclass
class _Array:
    """A NumPy array of bytes, empty until its content is read."""

    value: NDArray[np.uint8] | None = None


def read_batch(data: bytes) -> dict[bytes, Any]:
    """The dictionary of a batch: strings are bytes, arrays NumPy's of uint8. Raises ValueError for others."""
    reader = _Reader()
    try:
        for opcode, argument, place in pickletools.genops(data):
            step = _STEPS.get(opcode.name)
            if step is None:
                raise ValueError(f"the opcode {opcode.name} at byte {place}")
            step(reader, argument)
    except (IndexError, KeyError, TypeError, UnicodeError, OverflowError) as error:
        raise ValueError(f"a broken pickle: {error}") from None
    if len(reader.stack) != 1 or not isinstance(reader.stack[0], dict):
        raise ValueError("no dictionary")
    return {
        key: value.value if isinstance(value, _Array) else value for key, value in reader.stack[0].items()
    }


class _Reader:
    """The stack and the memo of a pickle."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def take(self, count: int) -> tuple[Any, ...]:
        """The last `count` values, which leave the stack."""
        if len(self.stack) < count:
            raise ValueError("a stack that is too short")
        taken = tuple(self.stack[len(self.stack) - count :])
        del self.stack[len(self.stack) - count :]
        return taken

    def take_from_mark(self) -> tuple[Any, ...]:
        count = next((count for count, value in enumerate(reversed(self.stack)) if value is _MARK), None)
        if count is None:
            raise ValueError("values without their start")
        _, *values = self.take(count + 1)
        return tuple(values)

    def name(self, text: str) -> None:
        if text not in _ARRAY:
            raise ValueError(f"the name {text!r}")
        self.push(_Name(text))

    def reduce(self) -> None:
        made, arguments = self.take(2)
        if made == _Name(_ARRAY[0]) and arguments == (_Name(_ARRAY[1]), (0,), b"b"):
            self.push(_Array())
        elif made == _Name(_ARRAY[2]) and arguments == _BYTES:
            self.push(_Bytes())
        else:
            raise ValueError("a call that makes no array of bytes")

    def build(self) -> None:
        (state,) = self.take(1)
        made = self.stack[-1]
        if isinstance(made, _Bytes):
            return  # byte order and alignment mean nothing to bytes
        version, shape, kind, fortran, content = state
        # The official files have two sizes; the product of a million would take an hour.
        sizes = (
            isinstance(shape, tuple)
            and len(shape) <= 2
            and all(type(size) is int and size >= 0 for size in shape)
        )
        if not (
            isinstance(made, _Array) and isinstance(kind, _Bytes) and isinstance(content, bytes) and sizes
        ):
            raise ValueError("an array that is none of bytes")
        if version != 1 or fortran is not False or math.prod(shape) != len(content):
            raise ValueError(f"an array of {len(content)} bytes that claims the shape {shape}")
        made.value = np.frombuffer(content, np.uint8).reshape(shape)

    def append(self, values: tuple[Any, ...]) -> None:
        if not isinstance(self.stack[-1], list):
            raise ValueError("values without a list")
        self.stack[-1].extend(values)

    def set(self, pairs: tuple[Any, ...]) -> None:
        keys = pairs[::2]
        if (
            not isinstance(self.stack[-1], dict)
            or len(pairs) % 2
            or not all(type(key) is bytes for key in keys)
        ):
            raise ValueError("keys that are no byte strings")
        self.stack[-1].update(zip(keys, pairs[1::2], strict=True))

    def store(self, index: int) -> None:
        self.memo[index] = self.stack[-1]


def _value(reader: _Reader, value: Any) -> None:
    reader.push(value)


def _long(reader: _Reader, value: int) -> None:
    """As Python 2 wrote sizes on Windows."""
    if abs(value) >= 1 << 31:
        raise ValueError("a number of more than 32 bits")
    reader.push(value)


def _string(reader: _Reader, text: str) -> None:
    reader.push(text.encode("latin-1"))  # as `pickletools` decoded the bytes


_STEPS: dict[str, Callable[[_Reader, Any], None]] = {
    "PROTO": lambda reader, version: None,
    "STOP": lambda reader, _: None,
    "MARK": lambda reader, _: reader.push(_MARK),
    **dict.fromkeys(("BININT", "BININT1", "BININT2"), _value),
    "LONG1": _long,
    **dict.fromkeys(("BINSTRING", "SHORT_BINSTRING"), _string),
    "NONE": lambda reader, _: reader.push(None),
    "NEWFALSE": lambda reader, _: reader.push(False),
    "EMPTY_DICT": lambda reader, _: reader.push({}),
    "EMPTY_LIST": lambda reader, _: reader.push([]),
    "TUPLE": lambda reader, _: reader.push(reader.take_from_mark()),
    "TUPLE1": lambda reader, _: reader.push(reader.take(1)),
    "TUPLE2": lambda reader, _: reader.push(reader.take(2)),
    "TUPLE3": lambda reader, _: reader.push(reader.take(3)),
    "APPEND": lambda reader, _: reader.append(reader.take(1)),
    "APPENDS": lambda reader, _: reader.append(reader.take_from_mark()),
    "SETITEM": lambda reader, _: reader.set(reader.take(2)),
    "SETITEMS": lambda reader, _: reader.set(reader.take_from_mark()),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _Reader.store),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda reader, index: reader.push(reader.memo[index])),
    "GLOBAL": _Reader.name,
    "REDUCE": lambda reader, _: reader.reduce(),
    "BUILD": lambda reader, _: reader.build(),
}
"""By opcode, what it does to the stack."""
