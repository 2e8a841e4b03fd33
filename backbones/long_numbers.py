"""Whole numbers of more digits than Python reads, of which `int` and `json` raise a bare ValueError."""

import json
import math
import sys
from collections.abc import Callable
from typing import Any

from backbones.words import clipped


def long_number(digits: str) -> str:
    """What a whole number is that has more digits than Python reads."""
    return f"a number of {len(digits.lstrip('+-'))} digits, expected at most {sys.get_int_max_str_digits()}"


class _Digits(str):
    """A whole number of more digits than Python reads."""


def first_long(data: bytes | str) -> str:
    """Names by its key the first number of JSON that has too many digits."""
    try:
        places = [("", loads(data, _Digits))]
    except (ValueError, RecursionError) as error:  # further on in the text
        return str(error)
    for place, value in places:  # which grows meanwhile
        if isinstance(value, dict):
            places += [(f"{place}.{key}", inner) for key, inner in value.items()]
        elif isinstance(value, list):
            places += [(f"{place}[{index}]", inner) for index, inner in enumerate(value)]
        elif isinstance(value, _Digits):
            return f"{clipped(place.lstrip('.'))[1:-1] or 'it'} is {long_number(value)}"
    return "a key is there twice, once with a number of too many digits"


def loads(data: bytes | str, long: Callable[[str], Any] = lambda digits: math.inf) -> Any:
    """As `json.loads`. long: of the digits makes a whole number that has more of them than Python reads; by
    default it is infinite, as 1e400 is."""

    def whole(digits: str) -> Any:
        try:
            return int(digits)
        except ValueError:
            return long(digits)

    return json.loads(data, parse_int=whole)
