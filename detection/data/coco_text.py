"""The lists of an annotation file in COCO format as text, element by element."""

import os
import re
from typing import Any

import msgspec

from backbones.files import read_bytes, unreadable
from backbones.long_numbers import loads

LISTS = ("images", "categories", "annotations")


class Elements(msgspec.Struct):
    """The elements of an annotation file, as slices of its text. None for a list that is not there."""

    images: list[msgspec.Raw] | None = None
    categories: list[msgspec.Raw] | None = None
    annotations: list[msgspec.Raw] | None = None
    licenses: msgspec.Raw = msgspec.Raw(b"[]")


def split_file(path: str | os.PathLike[str]) -> Elements:
    """Finds the elements of a file. NaN and Infinity, which Python writes, are read as null.

    Raises FileNotFoundError; ValueError that names the file where it is none that can be read, is not JSON
    or no object."""
    data = read_bytes(path, "annotation")
    try:
        try:
            return _split(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return _strict(data, error)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from None


def _split(data: bytes) -> Elements:
    """Raises msgspec.DecodeError for what is not JSON, ValueError for another form."""
    try:
        return msgspec.json.decode(data, type=Elements)
    except msgspec.ValidationError:
        pass
    # A wrong value is met before a later mistake in the text, which matters more and is raised here.
    msgspec.json.decode(data, type=msgspec.Raw)
    try:
        keys = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    except msgspec.ValidationError as error:
        raise ValueError(f"expected an object with images, annotations and categories: {error}") from None
    found: dict[str, Any] = {}
    for key in LISTS:
        try:
            found[key] = msgspec.json.decode(keys.get(key, b"null"), type=list[msgspec.Raw] | None)
        except msgspec.ValidationError:
            kind = type(msgspec.json.decode(keys[key])).__name__
            named = {"dict": "an object", "str": "text"}.get(kind, f"a {kind}")
            raise ValueError(f"{key} is {named}, expected a list") from None
    return Elements(**found, licenses=keys.get("licenses", msgspec.Raw(b"[]")))


_STRING_OR_CONSTANT = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|-?\b(?:NaN|Infinity)\b', re.DOTALL)


def _strict(data: bytes, refusal: Exception) -> Elements:
    """The elements where Python can read the text: json.dump writes NaN unless told not to, other programs
    write UTF-16 or a byte order mark. What is not finite is null.

    refusal: of msgspec. Raises ValueError where Python cannot either."""
    try:
        return _split(_without_constants(data))  # as objects of Python, COCO's train2017 takes gigabytes
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        strict = msgspec.json.encode(loads(data))
    except UnicodeEncodeError:
        raise ValueError("holds half of a surrogate pair (such as \\ud800), which is no text") from None
    except (ValueError, RecursionError, OverflowError):
        raise ValueError(unreadable(refusal)) from None
    try:
        return _split(strict)
    except (msgspec.DecodeError, RecursionError):
        raise ValueError(unreadable(refusal)) from None


def _without_constants(data: bytes) -> bytes:
    """null for NaN and Infinity outside of strings."""
    pieces, start = [], 0
    for match in _STRING_OR_CONSTANT.finditer(data):
        if data[match.start()] != ord('"'):
            pieces += [data[start : match.start()], b"null"]
            start = match.end()
    return b"".join([*pieces, data[start:]])
