"""How messages show values, names and numbers."""

import os
import reprlib

_SHOWN = reprlib.Repr()
_SHOWN.maxstring = _SHOWN.maxother = 60
clipped = _SHOWN.repr
"""A value as an error shows it: what a broken file holds may be megabytes."""


def printable(text: str) -> str:
    """`text` as a terminal may show it: control characters and what is not UTF-8 are written as escapes.

    For names of files and classes, which come from outside and could move the cursor or change colours."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def printable_lines(text: str) -> str:
    """As `printable`, for messages of several lines."""
    return "\n".join(map(printable, text.split("\n")))


def told(error: Exception) -> str:
    """An error as a user reads it: what the system refused is named by its path and its reason."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    name = error.filename if error.filename2 is None else error.filename2
    reason = error.strerror[:1].lower() + error.strerror[1:]
    return reason if name is None else f"{os.fsdecode(name) if isinstance(name, bytes) else name}: {reason}"


def counted(number: int, one: str, many: str | None = None) -> str:
    """A number and its unit, as `1 image` or `2 images`. many: the plural; None: with an s."""
    return f"{number} {one if number == 1 else many or f'{one}s'}"
