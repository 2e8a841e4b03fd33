"""Words of a Hydra command line, as commands are printed for the user to type."""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path

_PLAIN = re.compile(r"[A-Za-z0-9_./-]+")
"""What Hydra takes as it stands, unless it reads a number or a constant."""
_CONSTANTS = {"null", "true", "false", "nan", "inf"}


def override(key: str, value: object) -> str:
    """`key=value`, quoted for Hydra where that is needed, and around that for the shell.

    value: a string or a path, which arrives as that string; None, a bool, a number, or a list or mapping of
    all these. In a string `${` stays what it is to Hydra, an interpolation."""
    return shlex.quote(f"{key}={_written(value)}")


def _written(value: object) -> str:
    """In Hydra's grammar of overrides."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str | Path):
        return _quoted(str(value))
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_written, value))}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{name}:{_written(each)}' for name, each in value.items())}}}"
    return str(value)


def _quoted(text: str) -> str:
    if _PLAIN.fullmatch(text) and not _is_number(text) and text.lower() not in _CONSTANTS:
        return text
    # Backslashes are characters to Hydra but before a quote, where each counts.
    escaped = re.sub(r'(\\*)("|\Z)', lambda found: 2 * found[1] + ('\\"' if found[2] else ""), text)
    return f'"{escaped}"'


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
