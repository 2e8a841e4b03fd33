"""Hypothesis strategies that break files which are right: their bytes, or the JSON that they hold."""

import copy
import json
import struct
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

TOKENS = [
    *(b"null", b"NaN", b"-Infinity", b"1e999", b"-1", b"99999999999999999999", b"0.5", b'""', b"[]", b"{}"),
    *(b"\x00", b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", b"\n", b"\r", b"\t", b"&x", b"*x", b"<a>", b"]]>"),
    *(b"!!python/object/apply:os.system", b"\\ud800", b"\xed\xa0\x80", b"[" * 5000, b'{"a":' * 5000),
    *(
        b"<a>" * 5000,
        b"- " * 5000,
        b"\x7f\xff\xff\xff",
        b"\xff" * 8,
        b"\x00" * 8,
        b"%s",
        b"../..",
        b" nan inf",
        b"1" * 5000,
    ),
]
"""What breaks readers, put in place of some bytes."""


def nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([2**31, 2**63, 2**64, -(2**63) - 1, 10**400, 0, -1, 10**6, 10**9]),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["NaN", "1e5", "\ud800", "\x1b[31m", "\x00", "a" * 100_000, "/dev/zero", "../x"]),
    st.lists(st.integers(-2, 2), max_size=5),
    st.dictionaries(st.text(max_size=4), st.integers(), max_size=3),
    st.builds(nested, st.integers(1, 300)),
)
"""What stands in place of a value of JSON."""


@st.composite
def broken_bytes(draw: Any, seed: bytes) -> bytes:
    """`seed` with one to four pieces overwritten, inserted, left out or repeated."""
    data = seed
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.sampled_from([0, 0, 1, 1, 2, 4, 8, 64, 10**9])))
        piece = draw(
            st.one_of(
                st.sampled_from(TOKENS), st.binary(max_size=8), st.just(data[start:end] * 2), st.just(b"")
            )
        )
        data = data[:start] + piece + data[end:]
    return data


@st.composite
def broken_value(draw: Any, seed: Any) -> Any:
    """`seed`, as JSON gave it, with one to three of its values replaced, left out or renamed."""
    value = copy.deepcopy(seed)
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(value))
        if not places:
            return draw(VALUES)
        container, key = places[draw(st.integers(0, len(places) - 1))]
        action = draw(st.sampled_from(["replace", "replace", "replace", "remove", "rename"]))
        if action == "remove":
            del container[key]
        elif action == "rename" and isinstance(container, dict):
            container[draw(st.text(max_size=5))] = container.pop(key)
        else:
            container[key] = draw(VALUES)
    return value


def _places(value: Any) -> Any:
    """(container, key or index) of every value inside `value`."""
    waiting = [value]
    while waiting:  # no recursion: broken values may be nested deeply
        container = waiting.pop()
        if isinstance(container, dict | list):
            for key in list(container) if isinstance(container, dict) else range(len(container)):
                yield container, key
                waiting.append(container[key])


def broken(seeds: list[bytes]) -> st.SearchStrategy[bytes]:
    """Any bytes, or one of `seeds` with its bytes broken or, where it holds JSON, its values."""
    choices = [st.binary(max_size=64)]
    for seed in seeds:
        choices += [broken_bytes(seed)] * 2
        for unpacked, pack in _contents(seed):
            choices += [broken_value(unpacked).map(pack)] * 3
    return st.one_of(choices).map(Data)


class Data(bytes):
    """Bytes that Hypothesis shows in one line."""

    def __repr__(self) -> str:
        return f"<{len(self)} bytes: {self[:100]!r}>"


def _contents(data: bytes) -> list[tuple[Any, Callable[[Any], bytes]]]:
    """The JSON in a file, with what puts another in its place: of JSON, and of safetensors' two headers."""
    try:
        return [(json.loads(data), lambda value: json.dumps(value).encode())]
    except ValueError:
        pass
    try:
        (size,) = struct.unpack("<Q", data[:8])
        header, tensors = json.loads(data[8 : 8 + size]), data[8 + size :]
        description = json.loads(header["__metadata__"]["celltransfer"])
    except (ValueError, LookupError, struct.error, TypeError):
        return []

    def with_header(value: Any) -> bytes:
        text = json.dumps(value).encode()
        return struct.pack("<Q", len(text)) + text + tensors

    def with_description(value: Any) -> bytes:
        return with_header(header | {"__metadata__": {"celltransfer": json.dumps(value)}})

    return [(header, with_header), (description, with_description)]
