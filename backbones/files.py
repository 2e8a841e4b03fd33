"""Files that are never half-written, and JSON that is what it should be: every stage uses this module."""

import dataclasses
import errno
import json
import os
import re
import secrets
import stat
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from backbones.long_numbers import first_long
from backbones.words import clipped

T = TypeVar("T")

STDOUT = "-"
"""Where a command takes the name of a text file: standard output."""
DEEPEST = 64
"""Levels of values in values that JSON from outside may have; ours have 8."""

_KINDS = {stat.S_IFDIR: "folder", stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket"}


def write_atomically(path: str | os.PathLike[str], data: bytes | str) -> None:
    """Writes to a temporary name beside it, syncs, renames: a crash leaves the old file or the new.

    Raises OSError that names `path`, or the folder that could not be made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        with temporary.open("xb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):  # of the temporary name, or of none where the disk is full
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise


def write_output(path: str | os.PathLike[str], text: str) -> None:
    """Writes what a command was asked for and prints where it is; STDOUT: prints the text itself instead.

    Raises as `write_atomically` does. A reader that has closed the pipe has seen enough."""
    if os.fspath(path) != STDOUT:
        write_atomically(path, text)
        print(path)
        return
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:  # else Python would try again at its end, and say so
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def check_output(path: str | os.PathLike[str], *, folder: bool = False, text: bool = False) -> None:
    """Raises ValueError where no file can be written to `path`. folder: `path` is a folder to write into.
    text: `write_output` writes it, so it may be STDOUT.

    To be called before any work. Nothing is made, and a disk may be full all the same."""
    if os.fspath(path) == STDOUT:
        if text:
            return
        what = "folder" if folder else "file"
        raise ValueError(f"{STDOUT} means standard output, expected the name of a {what} to write")
    path = Path(path)
    if not folder and path.exists():
        if path.is_dir():
            raise ValueError(f"{path} is a folder, expected the name of a file to write")
        existing(path, "output")
    place = path if folder else path.parent
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise ValueError(
            f"{path} cannot be written: {place} is not a folder"
            if place != path
            else f"{path} is not a folder"
        )
    try:
        tempfile.TemporaryFile(dir=place).close()  # what a file system grants is known to itself alone
    except OSError as error:
        raise ValueError(
            f"{path} cannot be written: {real_path(place)}: {str(error.strerror).lower()}"
        ) from None


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes `value` as indented JSON. NaN and infinities are refused: they are not JSON."""
    write_atomically(path, json_text(value))


def json_text(value: Any) -> str:
    """What `write_json` writes. Raises ValueError for NaN and infinities."""
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def read_json(path: str | os.PathLike[str], what: str) -> Any:
    """Parses a JSON file.

    what: the kind of file for the message, such as "genotype".
    Raises FileNotFoundError, or ValueError that names the file and the place of the mistake.
    """
    return parse_json(read_bytes(path, what), f"{path}: expected {_a(what)} file in JSON")


def parse_json(data: bytes | str, expected: str) -> Any:
    """A value that is not nested deeper than Python's own functions can follow.

    expected: the beginning of the message. Raises ValueError."""
    try:
        value = json.loads(data)
    except RecursionError:
        raise ValueError(f"{expected}, but its values are nested too deeply") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{expected}, but {error}") from None
    except ValueError:  # of a number of more digits than Python reads
        raise ValueError(f"{expected}, but {first_long(data)}") from None
    level = [value]
    for _ in range(DEEPEST):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return value
    raise ValueError(f"{expected}, but its values are nested deeper than {DEEPEST} levels")


def decode_json(path: str | os.PathLike[str], form: type[T], what: str) -> T:
    """Parses a JSON file straight into a msgspec type: quicker than `read_json`, for files of any size.

    Raises FileNotFoundError, or ValueError that names the file and the key."""
    data = read_bytes(path, what)
    try:
        return msgspec.json.decode(data, type=form)
    except msgspec.ValidationError as error:
        mismatch = str(error)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: {unreadable(error)}") from None
    try:  # a wrong value is met before a later mistake in the text, which matters more
        msgspec.json.decode(data, type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: {unreadable(error)}") from None
    raise ValueError(f"{path}: {mismatch}")


def expanded(path: str | os.PathLike[str]) -> Path:
    """The path with `~` as the home folder. That of an unknown user stays, of which `Path.expanduser` makes a
    RuntimeError."""
    return Path(os.path.expanduser(path))


def real_path(path: str | os.PathLike[str]) -> Path:
    """The absolute path without links. A link to itself stays; `Path.resolve` makes a RuntimeError of it."""
    return Path(os.path.realpath(path))


def existing(path: str | os.PathLike[str], what: str) -> Path:
    """The path of a regular file, or of a link to one. Nothing is opened: to open a FIFO may wait for ever.

    what: the kind of file for the message, such as "genotype".
    Raises FileNotFoundError where there is nothing, or a link to nothing; ValueError where there is a
    folder, a FIFO, a socket or a device, or a link to itself.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            target = os.readlink(path)
            raise FileNotFoundError(
                f"{path}: no such {what} file: a link to {target}, which is absent"
            ) from None
        raise FileNotFoundError(f"{path}: no such {what} file") from None
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENAMETOOLONG):
            raise
        raise ValueError(f"{path}: expected {_a(what)} file, but {str(error.strerror).lower()}") from None
    except ValueError as error:  # a zero byte
        raise ValueError(f"{str(path)!r}: expected the name of {_a(what)} file, but {error}") from None
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "device")
        raise ValueError(f"{path}: expected {_a(what)} file, but this is a {kind}")
    return path


def _a(what: str) -> str:
    return f"{'an' if what[0].lower() in 'aeiou' else 'a'} {what}"


def read_bytes(path: str | os.PathLike[str], what: str) -> bytes:
    """The content of a file. Raises as `existing` does."""
    return existing(path, what).read_bytes()


def read_text(path: str | os.PathLike[str], what: str) -> str:
    """The content of a text file in UTF-8, without a byte order mark.

    Raises as `existing` does, and ValueError that names the file where it is not UTF-8."""
    data = read_bytes(path, what)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{path}: line {line}: expected text in UTF-8, found the byte 0x{data[error.start]:02x}"
        ) from None


def unreadable(error: Exception) -> str:
    """What msgspec's refusal to decode means."""
    if isinstance(error, RecursionError):
        return "lists or objects are nested too deeply to be read"
    if "out of range" in str(error):  # such as 1e400: JSON's grammar allows what no float holds
        return f"a number is too large to be read: {error}"
    return f"not JSON: {error}"


def convert_json(value: Any, form: type[T], prefix: str, *, defaults: bool = False) -> T:
    """`value`, as JSON gave it, as `form`, such as a dataclass; the form's own checks hold, too.

    prefix: what a message puts before the key: `genotype.json: `, or `backbone.safetensors: network.`.
    defaults: a key that has a default may be missing. Unknown keys never pass.
    Raises ValueError that names the key, its value and what was expected.
    """
    try:
        result = msgspec.convert(value, form)
    except UnicodeEncodeError as error:  # one half of a pair, as JSON may escape it
        half = clipped(error.object[error.start : error.end])
        raise ValueError(f"{prefix.rstrip(' .:')}: expected text in Unicode, found {half}") from None
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at `$")
        key = place.strip("`.")
        if key.startswith("["):
            prefix = prefix.rstrip(".")
        if error.__cause__ is not None:  # the form's own check, which may name the form itself
            own = str(error.__cause__)
            raise ValueError(f"{prefix}{own if own.startswith(key) else f'{key}.{own}'}") from None
        if missing := re.fullmatch("Object missing required field `(.*)`", message):
            raise ValueError(f"{prefix}{f'{key}.{missing[1]}'.strip('.')} is missing") from None
        for name, index in re.findall(r"\.(\w+)|\[(\d+)\]", place):
            value = value[name or int(index)]
        expected = message.partition(", got")[0].replace("`", "").lower()
        raise ValueError(f"{f'{prefix}{key}'.rstrip(' .:')} = {clipped(value)}, {expected}") from None
    _check_keys(value, result, prefix, defaults)
    return result


def _check_keys(given: Any, read: Any, prefix: str, defaults: bool) -> None:
    """msgspec fills in what is missing and passes over what it does not know."""
    if isinstance(given, Mapping) and dataclasses.is_dataclass(read):
        known = [field.name for field in dataclasses.fields(read)]
        if unknown := [key for key in given if key not in known]:
            raise ValueError(f"{prefix}{clipped(unknown[0])[1:-1]} is unknown, expected {', '.join(known)}")
        if not defaults and (missing := [key for key in known if key not in given]):
            raise ValueError(f"{prefix}{missing[0]} is missing")
        for key, inner in given.items():
            _check_keys(inner, getattr(read, key), f"{prefix}{key}.", defaults)
    elif isinstance(given, list):
        for index, (inner, one) in enumerate(zip(given, read, strict=True)):
            _check_keys(inner, one, f"{prefix.rstrip('.')}[{index}].", defaults)
