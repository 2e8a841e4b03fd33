"""The page about searches: what it says, and the numbers of its charts against direct computations."""

import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from toy_search import evaluator, toy_config

from runtime.config import LoggerConfig
from search.curves import (
    band,
    cpu_hours,
    entropies,
    front_of,
    input_shares,
    one_child,
    operation_shares,
    sliding_mean,
    top_mean,
)
from search.history import History, grouped
from search.ledger.reader import LEDGER
from search.report import main
from search.run import run
from search.strategies.config import RandomConfig

CHILDREN = 60


@pytest.fixture(scope="module")
def searches(tmp_path_factory):
    """Random search with two seeds, and the controller; some children fail."""
    root = tmp_path_factory.mktemp("searches")
    failures = evaluator(failures={3: ["not finite"], 7: ["crash", "crash"]})
    for name, changes in {
        "random0": {"strategy": RandomConfig()},
        "random1": {"strategy": RandomConfig(), "seed": 1},
        "controller": {},
    }.items():
        logger = LoggerConfig(name="none")
        run(toy_config(root / name, CHILDREN, evaluator=failures, logger=logger, **changes))
    return [root / name for name in ("random0", "random1", "controller")]


@pytest.fixture(scope="module")
def histories(searches):
    return [History.read(folder / LEDGER) for folder in searches]


class Text(HTMLParser):
    """Words of a page, and what it asks a browser to load."""

    def __init__(self, page):
        super().__init__()
        self.words, self.loads, self.style = [], [], False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.style = tag == "style"
        self.loads += [value for name, value in attrs if name in ("src", "srcset", "data")]
        self.loads += [value for name, value in attrs if name == "href" and tag != "a"]

    def handle_endtag(self, tag):
        self.style = False

    def handle_data(self, data):
        if not self.style:
            self.words += data.split()

    @property
    def text(self):
        return " ".join(self.words)


def test_page_of_several_searches(searches, histories, capsys, tmp_path):
    page = tmp_path / "page.html"
    assert main([*map(str, searches), "--output", str(page)]) == 0
    assert capsys.readouterr().out == f"{page}\n"
    seen = Text(page.read_text())
    assert seen.loads == ["data:,"]
    assert "url(" not in page.read_text()
    best = max(row.reward for history in histories for row in history.unique)
    assert f"best reward {100 * best:.2f} %" in seen.text
    assert "children done 180" in seen.text
    tops = [max(row.reward for row in history.unique) for history in histories[:2]]
    low, high = (f"{100 * value:.2f} %" for value in (min(tops), max(tops)))
    assert re.search(rf"random 0, 1 {100 * sum(tops) / 2:.2f} % {low} to {high}", seen.text)
    assert "not finite 1 child 3: as ordered" in seen.text
    assert "✓ yes Comparison with random search on this page" in seen.text
    assert "✗ no Several runs, with their seeds runs: random: 2, controller: 1" in seen.text
    assert "○ open Ablation studies" in seen.text


def test_page_of_one_search_lies_in_its_folder(searches, capsys):
    assert main([str(searches[2])]) == 0
    page = searches[2] / "search_report.html"
    assert capsys.readouterr().out == f"{page}\n"
    seen = Text(page.read_text())
    assert "Comparison with random search run the same command with strategy=random" in seen.text
    assert page.read_text().count('<svg xmlns="http://www.w3.org/2000/svg" class="cells"') == 3
    page.unlink()


def test_folder_without_a_search_is_refused(tmp_path, capsys):
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"{tmp_path}: holds no search, expected {LEDGER} in it\n"


def test_searches_that_differ_in_their_seeds_are_one_group(histories):
    groups = grouped(histories)
    assert [(group.name, group.seeds) for group in groups] == [("random", [0, 1]), ("controller", [0])]


def test_mean_of_the_best_unique_cells(histories):
    history = histories[0]
    curve = dict(top_mean(history, 3, one_child))
    for count in range(1, CHILDREN + 1):
        rewards = [row.reward for row in history.unique if row.number < count]
        if float(count) in curve and count < CHILDREN:
            assert curve[count] == pytest.approx(sum(sorted(rewards)[-3:]) / 3)
    assert max(curve) == CHILDREN
    first = next(row.number for i, row in enumerate(history.unique) if i == 2)
    assert min(curve) == first + 1
    hours = sum(map(cpu_hours, history.rows))
    assert hours == pytest.approx(history.cpu_hours)


def test_band_keeps_each_value_until_the_next():
    found = band([[(0.0, 1.0), (2.0, 3.0), (4.0, 3.0)], [(1.0, 0.0), (4.0, 5.0)], []])
    xs = [x for x, _ in found.mean]
    assert (xs[0], xs[-1]) == (1.0, 4.0)
    at = {
        round(x, 9): (low, mean, high)
        for (x, mean), (_, low), (_, high) in zip(found.mean, found.low, found.high, strict=True)
    }
    assert at[1.0] == (0.0, 0.5, 1.0)
    assert at[4.0] == (3.0, 4.0, 5.0)
    assert all(low == 0 and high == (1 if x < 2 else 3) for x, (low, _, high) in at.items() if x < 4)
    assert band([[], []]) is None


def test_sliding_mean(histories):
    scored = [(row.number, row.reward) for row in histories[0].rows if row.reward is not None]
    found = sliding_mean(histories[0].rows, 5)
    expected = [
        (float(scored[i][0]), sum(reward for _, reward in scored[i - 4 : i + 1]) / 5)
        for i in range(4, len(scored))
    ]
    assert np.allclose(found, expected)


def test_evenness_of_decisions(histories):
    history, window = histories[0], 20
    space = history.space
    curves = entropies(history, space, window)
    assert set(curves) == {"inputs", "operations"}  # this space has one combination
    newest = [row.decisions for row in history.rows[-window:]]
    steps = [step for step, kind in enumerate(space.kinds) if kind == 1]
    values = []
    for step in steps:
        counts = np.unique([each[step] for each in newest], return_counts=True)[1] / window
        values.append(-sum(share * math.log(share) for share in counts) / math.log(4))
    assert curves["operations"][-1] == (CHILDREN, pytest.approx(sum(values) / len(values)))


def test_shares_add_up_and_are_those_of_the_proposed_cells(histories):
    group = grouped(histories)[0]
    shares = operation_shares(group, 20)
    assert np.allclose(np.sum([[y for _, y in curve] for curve in shares.values()], axis=0), 1)
    newest = [row for history in group.searches for row in history.rows[-20:]]
    blocks = [b for row in newest for b in (*row.genotype.normal.blocks, *row.genotype.reduction.blocks)]
    used = [operation for b in blocks for operation in (b.left_op, b.right_op)]
    for name, curve in shares.items():
        assert curve[-1] == (CHILDREN, pytest.approx(used.count(name) / len(used)))
    assert set(input_shares(group, 20)) == {"h_i", "h_i-1"}  # of one block


def test_front_is_what_no_other_beats(histories):
    rows = histories[0].unique
    front = front_of(rows, "parameters")
    for row in rows:
        beaten = any(
            (o.reward >= row.reward and o.parameters <= row.parameters)
            and (o.reward > row.reward or o.parameters < row.parameters)
            for o in rows
        )
        same = any((row.reward, row.parameters) == (o.reward, o.parameters) for o in front)
        assert same is not beaten
