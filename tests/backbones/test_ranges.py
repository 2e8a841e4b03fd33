"""Ranges of configured values, and the keys that their messages name."""

import pickle
from dataclasses import dataclass

import pytest

from backbones.ranges import KEY, ConfigError, NoSuchPathError, require, under


@dataclass
class Numbers:
    share: float = 0.5
    count: int | None = None
    name: str = "a"


def refused(key, value, **bounds):
    try:
        require(Numbers(**{key: value}), key, **bounds)
    except ConfigError:
        return True
    return False


@pytest.mark.parametrize(
    ("values", "bounds", "message"),
    [
        ({"count": 0}, {"least": 1}, "count = 0, must be at least 1, or null"),
        ({"share": 0.0}, {"above": 0}, "share = 0.0, must be above 0"),
        ({"share": 1.5}, {"least": 0, "most": 1}, "share = 1.5, must be in 0..1"),
        ({"share": -0.1}, {"least": 0, "most": 1}, "share = -0.1, must be in 0..1"),
        ({"share": 1.0}, {"least": 0, "below": 1}, "share = 1.0, must be in [0, 1)"),
        ({"share": 0.0}, {"above": 0, "most": 1}, "share = 0.0, must be in (0, 1]"),
        ({"share": 0.0}, {"above": 0, "below": 1}, "share = 0.0, must be in (0, 1)"),
        ({"share": float("nan")}, {"least": 0, "most": 1}, "share = nan, must be in 0..1"),
        ({"name": "c"}, {"among": ("a", "b")}, "name = 'c', expected one of a, b"),
    ],
)
def test_a_value_outside_is_refused_with_its_key_and_the_rule(values, bounds, message):
    with pytest.raises(ConfigError) as refusal:
        require(Numbers(**values), *values, **bounds)
    assert str(refusal.value) == message


def test_the_bounds_themselves_are_inside_and_none_is_never_refused():
    assert not refused("share", 0.0, least=0, below=1)
    assert not refused("share", 1.0, above=0, most=1)
    assert not refused("name", "b", among=("a", "b"))
    assert not refused("count", 1, least=1)
    assert not refused("count", None, least=1)


def test_every_key_of_a_message_is_completed_by_where_the_dataclass_stands():
    error = ConfigError(f"{KEY}epochs and {KEY}recipe.steps are both set, epochs is 1")
    assert str(error) == "epochs and recipe.steps are both set, epochs is 1"
    assert str(error.under("recipe").under("detection")) == (
        "detection.recipe.epochs and detection.recipe.recipe.steps are both set, epochs is 1"
    )
    assert str(error.under("")) == str(error)


def test_what_a_block_raises_is_of_the_key_and_keeps_its_kind():
    with pytest.raises(FileNotFoundError) as refusal, under("detection"):
        raise NoSuchPathError(f"{KEY}data.root = /nowhere: no such folder")
    assert str(refusal.value) == "detection.data.root = /nowhere: no such folder"
    assert str(pickle.loads(pickle.dumps(refusal.value))) == str(refusal.value)  # from a launcher's process
