"""Searches whose children only guess are told so; others are not."""

import dataclasses

import pytest
from toy_search import DIGITS, TINY, evaluator, toy_config

from search.chance import FACT, at_chance, guess
from search.config import ObjectiveConfig, SpaceConfig
from search.run import run
from search.status import main as status

WORDS = "they have learned nothing"
BALANCED = {FACT: {"accuracy": 0.1, "images": 5000}}


def test_a_guess_names_the_most_frequent_class():
    assert guess([0, 1, 1, 2, 1]) == {"accuracy": 0.6, "images": 5}


@pytest.mark.parametrize(
    ("rewards", "facts", "said"),
    [
        ([0.1, 0.11, 0.098], BALANCED, True),
        ([0.12] * 100, BALANCED, True),
        ([0.1, 0.11], BALANCED, False),  # too few to tell
        ([0.14] * 100, BALANCED, False),
        ([0.1] * 99 + [0.2], BALANCED, False),  # one learns, so the rewards rank something
        ([0.1] * 100, {}, False),
        ([0.1] * 100, {FACT: None}, False),
        ([0.5, 0.52, 0.51], {FACT: {"accuracy": 0.5, "images": 1000}}, True),
        ([0.56, 0.55, 0.57], {FACT: {"accuracy": 0.5, "images": 1000}}, False),
        ([0.004, 0.005, 0.006], {FACT: {"accuracy": 0.001, "images": 50_000}}, False),
        ([0.13, 0.17, 0.1], {FACT: {"accuracy": 0.1, "images": 60}}, True),  # 10 of 60, by chance
        ([0.9, 0.9, 0.9], {FACT: {"accuracy": 0.9, "images": 100}}, True),  # nine in ten of one class
    ],
)
def test_children_guess_where_mean_and_best_are_close_to_chance(rewards, facts, said):
    assert (at_chance(rewards, facts) is not None) is said


def training(folder, **changes):
    child = dataclasses.replace(TINY, lr=1e-9, epochs=1, **changes.pop("child", {}))
    settings = {"data": DIGITS, "child": child, "space": SpaceConfig(blocks=1), "evaluator": None}
    return toy_config(folder, 4, **settings | changes)


def warned(caplog, capsys, config):
    """Whether the search says it at its end, and its status."""
    caplog.clear()
    run(config)
    found = sum(WORDS in text for text in caplog.messages)
    capsys.readouterr()
    status([config.run_dir])
    return found, " ".join(capsys.readouterr().out.split()).count(WORDS)


def test_a_search_that_learns_nothing_says_so_once_and_in_its_status(tmp_path, caplog, capsys):
    assert warned(caplog, capsys, training(tmp_path / "plain")) == (1, 1)


def test_rewards_that_are_no_accuracies_of_known_images_are_left_alone(tmp_path, caplog, capsys):
    weighed = ObjectiveConfig(cost="parameters", target=1e4)
    assert warned(caplog, capsys, training(tmp_path / "objective", objective=weighed)) == (0, 0)
    own = toy_config(tmp_path / "own", 4, evaluator=evaluator())
    assert warned(caplog, capsys, own) == (0, 0)
