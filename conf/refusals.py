"""What Hydra refuses, in one message that names the word and what to type instead."""

import contextlib
import dataclasses
import difflib
import re
import shlex
import typing
from collections.abc import Iterator, Sequence

import yaml
from hydra import compose, initialize_config_module
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from backbones.long_numbers import long_number
from backbones.words import clipped
from runtime.overrides import override
from runtime.yaml_files import not_yaml

SCHEMAS = ("schema", "images_schema")
"""Choices of the YAML files alone."""
NEAR = 3
TYPES = {"Float": "a number", "Integer": "a whole number", "Boolean": "true or false"}
"""OmegaConf's names of types in our words."""
NAMES = {float: "Float", int: "Integer", bool: "Boolean"}


def refusal(error: Exception, command: str, words: Sequence[str], *, sweep: bool = False) -> str | None:
    """The message for what composing a configuration raised; None for a bug.

    command: the name of its configuration. words: of the command line, without the options. sweep: whether
    they are a sweep's, of which one job cannot be composed."""
    if (long := _long_number(words)) is not None:
        return long
    if sweep and (job := _failing_job(command, words)):
        number, words = job
        message = refusal(error, command, words)
        return message and f"job {number} ({' '.join(words)}): {message}"
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override, words)
    if ambiguous := re.match("Ambiguous value for argument '(.*)'\n", str(error)):
        key, _, value = ambiguous[1].partition("=")
        return (
            f"{key} = {value}: commas separate the values of a sweep, which needs -m; for one value with "
            f"commas type {_quoted(key, value) or 'quotes around it'}, for a list {key}=[{value}]"
        )
    if group := _refused_group(error, words):
        return _foreign_choice(group, command, words)
    if isinstance(error, yaml.MarkedYAMLError):  # of a file in the user's own --config-dir
        return not_yaml(error)
    if isinstance(error, UnicodeDecodeError):
        return f"a configuration file is not UTF-8: {error.reason}, in {clipped(repr(error.object))}"
    if not isinstance(error, HydraException | OmegaConfBaseException):
        return None
    cause = error.__cause__
    if isinstance(cause, ConfigKeyError | ConfigAttributeError):
        asked = re.match("Could not override '(.*)'", str(error))
        key = max([str(cause.full_key), asked[1] if asked else ""], key=len)
        return unknown_key(key, _composed(command, words))
    if isinstance(cause, OmegaConfBaseException):
        return _wrong_value(str(cause.full_key), cause, words)
    if taken := re.match("Could not append to config. An item is already at '(.*)'", str(error)):
        return f"{taken[1]} is a key already: leave out the +"
    if given := re.match("Could not override '(.*)'. No match in the defaults list", str(error)):
        return _no_group(given[1], command, words)
    lines = [line for line in str(error).splitlines() if not line.startswith(("To append to", "    "))]
    return "\n".join(lines).partition("\nConfig search path:")[0].partition(" value: {")[0]


def _long_number(words: Sequence[str]) -> str | None:
    """The message for a word with a number of more digits than Python, and so Hydra's parser, reads."""
    for word in words:
        try:
            list(_overrides([word]))
        except ValueError:
            key, _, value = word.partition("=")
            digits = max(re.findall(r"\d+", value.replace("_", "")), key=len, default="")
            return f"{key} = {clipped(value)}: {long_number(digits)}"
    return None


def _wrong_value(key: str, error: OmegaConfBaseException, words: Sequence[str]) -> str:
    """The message for a value of another type than its key takes, or with keys of its own."""
    text = str(error)
    expected = _expected(key, error)
    if expected is None:
        return f"{key}: {text.splitlines()[0]}"
    found = re.search("Value '(.*?)' (?:of type|is)", text)
    given = []
    for word in words:
        name = word.lstrip("+").partition("=")[0]
        if name.startswith(f"{key}."):
            return f"{name}: no such key; {key} is {expected.partition(',')[0]}"
        if name == key:
            given.append(word)
    if given:  # of a key that is given twice, the value that was refused
        refused = [
            word
            for word in given
            if found and [str(each.value()) for each in _overrides([word])] == [found[1]]
        ]
        return f"{key} = {[*given, *refused][-1].partition('=')[2]}: expected {expected}"
    # one of a list, or of a file
    return f"{key}{f' = {found[1]}' if found else ''}: expected {expected}"


def _expected(key: str, error: OmegaConfBaseException) -> str | None:
    """What a key takes, by OmegaConf's words for a value that it does not take; None for other words."""
    text = str(error)
    if re.search(
        "Cannot merge DictConfig with ListConfig|is not a ListConfig|incompatible container",
        text,
    ):
        return f"a list, such as {key}=[0.5,0.5]"
    if "is not a valid bool" in text:
        return TYPES["Boolean"]
    if kind := re.search(" could not be converted to (.*)", text):
        return TYPES.get(kind[1], "one value")
    if "is not Optional" in text:
        form = OmegaConf.get_type(error.parent_node)
        hints = typing.get_type_hints(form) if dataclasses.is_dataclass(form) else {}
        own = NAMES.get(hints.get(key.rpartition(".")[2], object))
        return TYPES[own] if own else "a value other than null"
    if choices := re.search(r"expected one of \[(.*)\]", text):
        return f"one of {choices[1]}"
    return None


def unknown_key(key: str, config: DictConfig) -> str:
    """The message for a key that no dataclass has, with the nearest that one has.

    config: any composed configuration of the command."""
    parent, _, name = key.rpartition(".")
    if whole := _of_any_keys(key, config):
        return f"{key}: no such key; to add it to {whole} type +{key}=…"
    known = list(_keys(config))
    same_name = [each for each in known if each.endswith(f".{key}")]
    same_name += [each for each in known if each.rpartition(".")[2] == name]
    siblings = [each.rpartition(".")[2] for each in known if each.rpartition(".")[0] == parent]
    prefix = f"{parent}." if parent else ""
    alike = difflib.get_close_matches(name, siblings)
    alike += [each for each in siblings if each.startswith(name)]
    near = [*same_name, *(prefix + each for each in alike)]
    if not siblings:
        near += difflib.get_close_matches(key, known)
    near = list(dict.fromkeys(near))
    if near:
        return f"{key}: no such key; did you mean {', '.join(near[:NEAR])}?"
    if siblings:
        return f"{key}: no such key; {parent or 'the configuration'} has {', '.join(siblings)}"
    return f"{key}: no such key; --cfg job shows all"


def _of_any_keys(key: str, config: DictConfig) -> str | None:
    """The part of a dotted key that may have any keys, such as `evaluator`; None where there is none."""
    node: typing.Any = config
    *parents, _ = key.split(".")
    for number, name in enumerate(parents, 1):
        kind = OmegaConf.get_type(node)
        hints = typing.get_type_hints(kind) if dataclasses.is_dataclass(kind) else {}
        if hints.get(name) is typing.Any:
            return ".".join(parents[:number])
        node = node._get_node(name) if name in hints else None
        node = node._maybe_dereference_node() if isinstance(node, DictConfig) else None
    return None


def _keys(config: DictConfig, prefix: str = "") -> Iterator[str]:
    """Dotted keys of all dataclasses in a configuration."""
    kind = OmegaConf.get_type(config)
    if not dataclasses.is_dataclass(kind):
        return
    for name in (field.name for field in dataclasses.fields(kind)):
        yield prefix + name
        node = config._get_node(name) if name in config else None
        if isinstance(node, DictConfig) and not (node._is_none() or node._is_missing()):
            node = node._maybe_dereference_node()
            yield from _keys(node, f"{prefix}{name}.") if isinstance(node, DictConfig) else ()


def _unreadable(word: str, words: Sequence[str]) -> str:
    """For a word that is no `key=value` to Hydra."""
    whole = next((joined for joined in _split_by_the_shell(words) if word in joined), None)
    if whole is not None:
        text = " ".join(whole)
        return f"{text}: the shell has split the value at its blanks; type {shlex.quote(text)}"
    key, equals, value = word.partition("=")
    quoted = _quoted(key, value)
    if not equals or quoted is None:
        return f"{word}: expected key=value, such as run_dir=DIR"
    return f"{key} = {value}: some of its characters mean something to Hydra; type {quoted}"


def _quoted(key: str, value: str) -> str | None:
    """`key=value` quoted for Hydra and, around that, for the shell; None where quotes do not help."""
    word = override(key, value)
    with contextlib.suppress(HydraException):
        if OverridesParser.create().parse_override(*shlex.split(word)).value() == value:
            return word
    return None


def _split_by_the_shell(words: Sequence[str]) -> Iterator[list[str]]:
    """Runs of words that close together the brackets that the first one opens."""
    for start, word in enumerate(words):
        _, _, value = word.partition("=")
        if not value.startswith(("[", "{")):
            continue
        for end in range(start + 2, len(words) + 1):
            text = " ".join(words[start:end])
            if all(text.count(left) == text.count(right) for left, right in ("[]", "{}")):
                yield list(words[start:end])
                break


def _failing_job(command: str, words: Sequence[str]) -> tuple[int, list[str]] | None:
    """Number and words of a sweep's first job that cannot be composed; None where there is none."""
    overrides = list(_overrides(words))
    if len(overrides) < len(words) or not any(each.is_sweep_override() for each in overrides):
        return None
    with contextlib.suppress(HydraException), initialize_config_module("conf", version_base="1.3"):
        (jobs,) = BasicSweeper.split_arguments(overrides, max_batch_size=None)
        return next(((n, job) for n, job in enumerate(jobs) if not _composes(command, job)), None)
    return None


def _overrides(words: Sequence[str]) -> Iterator[Override]:
    for word in words:
        with contextlib.suppress(HydraException):
            yield OverridesParser.create().parse_override(word)


def _refused_group(error: Exception, words: Sequence[str]) -> Override | None:
    """The word whose choice of a group was refused: of another type, none that is known, or no name."""
    group = None
    found = re.match(r"In '([^']+)/([^'/]+)': ", str(error))
    if found and found[2] not in (*_choices(found[1]), *SCHEMAS):
        return None  # a file in the user's own --config-dir, which Hydra names
    if found and str(error)[found.end() :].startswith("ValidationError"):
        group = found[1]
    elif isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group = error.missing_cfg_file.rpartition("/")[0]
    given = list(_overrides(words))
    for each in given:
        if each.key_or_group == group and (each.is_sweep_override() or each.value() is not None):
            return each
    composed = isinstance(error, OmegaConfBaseException)  # it may be of any value, not of this choice
    if composed or not isinstance(error, ValueError | TypeError):
        return None
    odd = [each for each in given if not isinstance(each.value(), str)]
    # Other keys may have such a value: the choice among groups is the one that Hydra refused.
    return next((each for each in odd if _choices(each.key_or_group)), odd[0] if odd else None)


def _choices(group: str) -> list[str]:
    """Of a group; none where there is no such group."""
    with initialize_config_module("conf", version_base="1.3"):
        loader: ConfigLoader = GlobalHydra.instance().config_loader()
        return [each for each in loader.get_group_options(group, ObjectType.CONFIG) if each not in SCHEMAS]


def _foreign_choice(override: Override, command: str, words: Sequence[str]) -> str:
    group = override.key_or_group
    others = [word for word in words if word != override.input_line]
    options = _choices(group)
    if not options:  # a place in a list that is no number
        return f"{group}: no such key; {group.rpartition('.')[0]} is a list"
    with initialize_config_module("conf", version_base="1.3"):
        key = override.get_key_element()
        fit = [each for each in options if _composes(command, [*others, f"{key}={each}"])]
        choices = fit or [each for each in options if _composes(command, [f"{key}={each}"])]
    return f"{override.input_line}: expected one of {', '.join(choices or options)}"


def _no_group(key: str, command: str, words: Sequence[str]) -> str:
    """For `key=VALUE` where the command has keys below `key`, but no choice among groups."""
    word = next(word for word in words if word.lstrip("+").startswith(f"{key}="))
    value = word.partition("=")[2]
    config = _composed(command, [each for each in words if each != word])
    known = list(_keys(config))
    below = [each for each in known if each.startswith(f"{key}.")]
    if not below:
        return unknown_key(key, config)
    own = f"{key}.weights" if value.endswith(".safetensors") else f"{key}.name"
    meant = f"type {override(own, value)}" if own in below else f"it has {', '.join(below)}"
    return f"{word}: {key} is no choice of {command.replace('_', '.')}; {meant}"


def _composes(command: str, words: Sequence[str]) -> bool:
    try:
        compose(command, overrides=list(words))
    except Exception:
        return False
    return True


def _composed(command: str, words: Sequence[str]) -> DictConfig:
    """With those of the words that choose from groups, as far as they compose."""
    with initialize_config_module("conf", version_base="1.3"):
        kept: list[str] = []
        for word in words:
            if _composes(command, [*kept, word]):
                kept.append(word)
        return compose(command, overrides=kept)
