"""Elements of a list in JSON: at full speed where all have the form asked for, else value by value.

The second way names every wrong value, and reads what pycocotools reads as well: `1.0` for 1, `false` for 0.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import msgspec

from backbones.long_numbers import loads
from backbones.words import clipped
from runtime.problems import Problem, note

CHUNK = 8192
"""Elements that are objects of Python at one time."""
LARGEST = 2**63 - 1
UNREAD = -(2**63)
"""Stands for a whole number that cannot be read, which is a problem of its own."""

T = TypeVar("T")


class Refused(Exception):
    """A value that is not what its key expects."""


class Key(NamedTuple):
    """How the value of a key is read.

    read: raises Refused. unread: stands for a value that cannot be read. default: of a missing key; UNSET
    where it must be there."""

    read: Callable[[Any], Any]
    expected: str
    unread: Any
    default: Any = msgspec.UNSET


class Form(NamedTuple):
    """of: a msgspec type whose fields are the keys. identity: key that names an element beside its place."""

    of: type
    keys: Mapping[str, Key]
    identity: str = "id"


def whole(value: Any, least: int = -LARGEST) -> int:
    """An integer, also as `1.0`. Raises Refused."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= LARGEST:
        raise Refused
    return value


def positive(value: Any) -> int:
    """An integer that is not negative. Raises Refused."""
    return whole(value, 0)


def flag(value: Any) -> int:
    """An integer, also as `true` or `false`. Raises Refused."""
    return int(value) if isinstance(value, bool) else whole(value)


def number(value: Any) -> float | None:
    """null stands for a number that JSON cannot say. Raises Refused."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Refused
    try:
        return float(value)
    except OverflowError:  # an integer of more than 308 digits
        return math.inf


def box(value: Any) -> tuple[float | None, ...]:
    """Four numbers. Raises Refused."""
    if not isinstance(value, list) or len(value) != 4:
        raise Refused
    return tuple(map(number, value))


def finite(value: Any) -> float:
    """A number that is one. Raises Refused."""
    read = number(value)
    if read is None or not math.isfinite(read):
        raise Refused
    return read


def finite_box(value: Any) -> tuple[float, ...]:
    """Raises Refused."""
    return tuple(map(finite, box(value)))


def text(value: Any) -> str:
    """Raises Refused."""
    if not isinstance(value, str):
        raise Refused
    return value


def label(value: Any) -> str:
    """Text, also a number as JSON has it. Raises Refused."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return text(value)


def read_elements(
    name: str, elements: Sequence[msgspec.Raw], form: Form, problems: list[Problem], where: str, shown: int
) -> Iterator[tuple[slice, list[Any]]]:
    """Rows and their elements, some thousands at a time; wrong values are added to `problems`.

    name: of the list. where, shown: as in `runtime.problems.note`."""
    decoder = msgspec.json.Decoder(list[form.of])  # type: ignore[name-defined]
    report = partial(note, problems, where=where, shown=shown)
    loose = msgspec.json.Decoder(msgspec.defstruct("Loose", [(key, Any, msgspec.UNSET) for key in form.keys]))
    for start in range(0, len(elements), CHUNK):
        rows = slice(start, min(start + CHUNK, len(elements)))
        try:
            yield rows, decoder.decode(b"[" + b",".join(elements[rows]) + b"]")
            continue
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass
        found = []
        for place, element in enumerate(elements[rows], start):
            given, fault = _loosely(loose, element, form)
            if fault is not None:
                report(f"{name}: {fault}", f"{name}[{place}]")
            found.append(_read(name, place, given, form, report, readable=fault is None))
        yield rows, found


def _loosely(
    decoder: msgspec.json.Decoder[Any], element: msgspec.Raw, form: Form
) -> tuple[Mapping[str, Any], str | None]:
    """The values of the form's keys, and what is wrong with the element as a whole."""
    try:
        return msgspec.structs.asdict(decoder.decode(element)), None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        content = loads(bytes(element))
    except UnicodeDecodeError:
        return {}, "element is not in UTF-8"
    except (ValueError, RecursionError) as error:
        return {}, f"element cannot be read ({error})"
    if not isinstance(content, dict):
        return {}, "element must be an object"
    return {key: content.get(key, msgspec.UNSET) for key in form.keys}, None


def _read(
    name: str,
    place: int,
    given: Mapping[str, Any],
    form: Form,
    report: Callable[[str, str], None],
    readable: bool,
) -> Any:
    """readable: the element was an object, so that keys which it lacks are faults of their own."""
    values, element = {}, f"{name}[{place}]"
    for key, (read, expected, unread, default) in form.keys.items():
        value = given.get(key, msgspec.UNSET)
        values[key] = unread
        try:
            if value is not msgspec.UNSET:
                values[key] = read(value)
            elif default is not msgspec.UNSET:
                values[key] = default
            elif readable:
                report(f"{name}: {key} is missing, expected {expected}", _named(element, given, form))
        except Refused:
            offender = f"{_named(element, given, form)}: {key} = {_shown(value)}"
            report(f"{name}: {key} must be {expected}", offender)
    return form.of(**values)


def _named(element: str, given: Mapping[str, Any], form: Form) -> str:
    identity = given.get(form.identity, msgspec.UNSET)
    known = isinstance(identity, int | str) and identity is not True and identity is not False
    return f"{element} ({form.identity} {_shown(identity)})" if known else element


def _shown(value: Any) -> str:
    """As JSON has it."""
    if value is None or isinstance(value, bool | int | float):
        return clipped(json.dumps(value))[1:-1]
    if isinstance(value, str):
        return f'"{clipped(value)[1:-1]}"'
    try:
        text = json.dumps(value, ensure_ascii=False)
    except RecursionError:
        return clipped(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
