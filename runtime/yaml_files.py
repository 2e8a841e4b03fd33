"""YAML files from outside: what is broken or hostile ends in one message that names file and line."""

import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from backbones.files import read_text
from backbones.long_numbers import long_number
from backbones.words import clipped

WHOLE = "tag:yaml.org,2002:int"
MOST_LEVELS = 64
"""Lists and mappings inside each other."""


class _Shallow(yaml.BaseLoader):
    """Text as it is written, down to MOST_LEVELS."""

    _level = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self._level > MOST_LEVELS:
            raise yaml.composer.ComposerError(None, None, "nested too deeply", self.peek_event().start_mark)
        self._level += 1
        node = super().compose_node(parent, index)
        self._level -= 1
        return node


class _Plain(_Shallow, yaml.SafeLoader):
    """Refuses aliases, which let a kilobyte stand for gigabytes. Plain values have none when dumped."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "an alias, *name", self.peek_event().start_mark)
        return super().compose_node(parent, index)


def compose(path: str | os.PathLike[str], what: str, loader: Any = _Shallow) -> yaml.Node | None:
    """The document as it is parsed, nothing of it built: aliases cost nothing. None for an empty file.

    what: the kind of file for the message. Raises as `backbones.files.read_text` does, and ValueError that
    names the file and the line of what is not YAML."""
    text = read_text(path, what)
    try:
        return yaml.compose(text, Loader=loader)
    except yaml.MarkedYAMLError as error:
        raise ValueError(not_yaml(error, str(path))) from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # escapes beyond Unicode, control characters
        raise ValueError(f"{path}: not YAML: {str(error).splitlines()[0]}") from None


def not_yaml(error: yaml.MarkedYAMLError, name: str = "") -> str:
    """The message for what a YAML reader met. name: of the file, where the reader was not given the file."""
    mark = error.problem_mark or error.context_mark
    name = name or (mark.name if mark else "a YAML file")
    line = f"line {mark.line + 1}: " if mark else ""
    hint = " (a blank behind the colon?)" if "could not find expected ':'" in str(error.problem) else ""
    return f"{name}: {line}not YAML: {error.problem}{hint}"


def read_mapping(path: str | os.PathLike[str], what: str) -> Mapping[str, Any]:
    """Plain values, as `yaml.safe_dump` wrote them.

    Raises as `compose` does, also for aliases and where the file holds no keys and values."""
    node = compose(path, what, _Plain)
    constructor = yaml.constructor.SafeConstructor()
    try:
        content = None if node is None else constructor.construct_document(node)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ValueError(f"{path}: {line}{error.problem}") from None
    except (ValueError, TypeError, LookupError, OverflowError) as error:  # such as 2026-99-99
        for key, scalar in _scalars(node):
            if scalar.tag == WHOLE and 0 < sys.get_int_max_str_digits() < len(scalar.value):
                line = scalar.start_mark.line + 1
                raise ValueError(
                    f"{path}: line {line}: {clipped(key)[1:-1] or 'it'} is {long_number(scalar.value)}"
                ) from None
        raise ValueError(f"{path}: expected a {what} in YAML, but {error}") from None
    if not isinstance(content, Mapping):
        raise ValueError(f"{path}: expected a {what} of keys and values, found {clipped(content)}")
    return {str(key): value for key, value in content.items()}


def _scalars(node: yaml.Node | None, key: str = "") -> Iterator[tuple[str, yaml.ScalarNode]]:
    """All single values of a document without aliases, by dotted keys."""
    if isinstance(node, yaml.ScalarNode):
        yield key, node
    elif isinstance(node, yaml.SequenceNode):
        for index, inner in enumerate(node.value):
            yield from _scalars(inner, f"{key}[{index}]")
    elif isinstance(node, yaml.MappingNode):
        for name, inner in node.value:
            yield from _scalars(inner, f"{key}.{name.value}".lstrip("."))
