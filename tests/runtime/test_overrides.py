"""Words for Hydra arrive as they were meant, through the shell and Hydra's grammar."""

import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given
from hypothesis import strategies as st

from runtime.overrides import override

PARSER = OverridesParser.create()
NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)
AWKWARD = st.text(" ,:=\\\"'()[]{}#$~äa0._-\n", min_size=1)


def arrives(word):
    (given,) = shlex.split(word)
    found = PARSER.parse_override(given)
    assert (found.key_or_group, found.is_sweep_override()) == ("dir", False)
    return found.value()


@given(NAMES | AWKWARD)
@example("x=1,y=2")
@example("my search")
@example("007")
@example("1_0")
@example("1e5")
@example("True")
@example("ends in a backslash\\")
@example('\\"\\\\"')
@example("a\\\n")
def test_any_folder_name_arrives(name):
    assert arrives(override("dir", name)) == name


@pytest.mark.parametrize("value", [None, True, 3, 0.5, [0.5, "a b", None], [], {"a": "b,c", "d": [1, "1"]}])
def test_other_values_arrive(value):
    assert arrives(override("dir", value)) == value


def test_what_needs_no_quotes_has_none():
    assert override("run_dir", Path("runs/search/2026-01-01_a-1")) == "run_dir=runs/search/2026-01-01_a-1"
    assert override("run_dir", "my search") == "'run_dir=\"my search\"'"
