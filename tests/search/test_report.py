"""The page about searches: what it says, and the numbers of its charts against direct computations."""

import html
import itertools
import math
import re
import shutil
from contextlib import closing
from html.parser import HTMLParser

import numpy as np
import pytest
from toy_search import evaluator, toy_config

from runtime.charts import Series, chart
from runtime.config import LoggerConfig
from search.curves import (
    band,
    cpu_time,
    entropies,
    front_of,
    input_shares,
    one_child,
    operation_shares,
    sliding_mean,
    top_mean,
)
from search.history import History, grouped
from search.ledger.located import located
from search.ledger.reader import LEDGER
from search.ledger.writer import Ledger
from search.report import main, write_report
from search.run import run
from search.strategies.config import RandomConfig

CHILDREN = 60


@pytest.fixture(scope="module")
def searches(tmp_path_factory):
    """Random search and the controller with two seeds each; some children fail."""
    root = tmp_path_factory.mktemp("searches")
    failures = evaluator(failures={3: ["not finite"], 7: ["crash", "crash"]})
    for name, changes in {
        "random0": {"strategy": RandomConfig()},
        "random1": {"strategy": RandomConfig(), "seed": 1},
        "controller": {},
        "controller1": {"seed": 1},
    }.items():
        logger = LoggerConfig(name="none")
        run(toy_config(root / name, CHILDREN, evaluator=failures, logger=logger, **changes))
        with closing(Ledger(root / name / LEDGER)) as ledger:
            ledger.save(facts={"split": {"validation": 40, "sha256": f"of seed {changes.get('seed', 0)}"}})
    return [root / name for name in ("random0", "random1", "controller", "controller1")]


@pytest.fixture(scope="module")
def histories(searches):
    return [History.read(located(folder)) for folder in searches]


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
    assert main([*map(str, searches[:3]), "--output", str(page)]) == 0
    assert capsys.readouterr().out == f"{page}\n"
    seen = Text(page.read_text())
    assert seen.loads == ["data:,"]
    assert "url(" not in page.read_text()
    best = max(row.reward for history in histories[:3] for row in history.unique)
    assert f"best reward {100 * best:.2f} %" in seen.text
    assert "children done 180" in seen.text
    tops = [max(row.reward for row in history.unique) for history in histories[:2]]
    low, high = (f"{100 * value:.2f} %" for value in (min(tops), max(tops)))
    assert re.search(rf"random random0 , random1 0, 1 {100 * sum(tops) / 2:.2f} % {low} to {high}", seen.text)
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
    assert "pale blocks" not in seen.text  # a searched cell concatenates all blocks that nobody uses
    page.unlink()


def test_folder_without_a_search_is_refused(tmp_path, capsys):
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"{tmp_path}: holds no search, expected {LEDGER} in it\n"


def answers(folders, page):
    """State and text of each answer of the check list."""
    write_report(folders, page)
    rows = re.findall(
        r'class="state (\w+)">.*?<th scope="row">(.*?)</th><td class="name">(.*?)</td>', page.read_text()
    )
    return {question: (state, text) for state, question, text in rows}


SAME = "Same data, split, space and training for all methods"


def test_methods_are_compared_seed_by_seed(searches, tmp_path):
    """The split follows the seed."""
    found = answers(searches, tmp_path / "page.html")
    equal = ("yes", "equal data, split, space and training, seed by seed for 2 seeds")
    assert found[SAME] == found["Same evaluation protocol for all methods"] == equal
    assert found["Several runs, with their seeds"] == ("yes", "runs: random: 2, controller: 2")
    assert found["Comparison with random search"] == ("yes", "on this page")
    state, text = found["Confounding factors controlled: hardware, versions, run times"]
    assert state == "open"
    assert re.search("equal versions: cpu .*; CPU time of the children: random .*, controller", text)
    assert found["Code that trains and scores the architectures of the search"][0] == "open"  # a user's own
    state, text = answers(searches[:3], tmp_path / "page.html")[SAME]
    assert (state, text) == (
        "no",
        "differences: seeds, and with them the splits (random 0, 1; controller 0)",
    )


def test_methods_with_another_split_of_one_seed_differ(searches, tmp_path):
    copies = [tmp_path / folder.name for folder in searches]
    for folder, copy in zip(searches, copies, strict=True):
        shutil.copytree(folder, copy)
    with closing(Ledger(copies[3] / LEDGER)) as ledger:
        ledger.save(facts={"split": {"validation": 40, "sha256": "another"}})
    assert answers(copies, tmp_path / "page.html")[SAME] == ("no", "differences: split of seed 1")
    config = (copies[0] / "config.yaml").read_text()
    (copies[0] / "config.yaml").write_text(config.replace("epochs: 20", "epochs: 10"))
    state, text = answers(copies, tmp_path / "page.html")[SAME]
    assert (state, "child.epochs" in text) == ("no", True)


def unlike(folders, page):
    """The notes of the page, and its table of keys that differ."""
    write_report(folders, page)
    text = page.read_text()
    keys = re.findall(r'<tr><th scope="row"><code>(.*?)</code></th>(.*?)</tr>', text)
    table = {key: re.findall(r"<td class=\"name\">(.*?)</td>", cells) for key, cells in keys}
    return re.findall(r'<p class="note">(Not comparable.*?)</p>', text), table


def copied(folder, to, *changes):
    shutil.copytree(folder, to)
    text = (to / "config.yaml").read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (to / "config.yaml").write_text(text)
    return to


def test_rewards_that_measure_another_thing_are_said_to(searches, tmp_path):
    page = tmp_path / "page.html"
    assert unlike(searches, page) == ([], {})
    random, controller = searches[0], searches[2]
    other = copied(controller, tmp_path / "a" / "controller", ("epochs: 20", "epochs: 10"))
    notes, table = unlike([controller, other], page)
    assert len(notes) == 4  # at the table, the curves, the Pareto front and the cells
    assert "differ in child.epochs. Their rewards" in notes[0]
    assert table == {"child.epochs": ["20", "10"]}
    parts = f"{controller.parent.name}/controller", "a/controller"
    seen = page.read_text()
    legend = html.unescape(re.search(r'<ul class="legend">.*?</ul>', seen, re.DOTALL)[0])
    assert re.findall(r"controller \d \((.*?)\)", legend) == list(parts)
    # How a child runs is no other measure, and a strategy's own keys are what is compared.
    same = copied(controller, tmp_path / "b", ("threads: 1", "threads: 2"), ("clip: 0.2", "clip: 0.1"))
    assert unlike([controller, same], page) == (
        [],
        {"child.threads": ["1", "2"], "latency.threads": ["1", "2"], "strategy.clip": ["0.2", "0.1"]},
    )
    with closing(Ledger(same / LEDGER)) as ledger:
        ledger.save(facts={"split": {"validation": 40, "sha256": "another"}})
    assert "images or split of seed 0" in unlike([random, same], page)[0][0]


def test_random_search_alone_is_no_comparison(searches, tmp_path):
    found = answers(searches[:2], tmp_path / "page.html")
    assert found["Comparison with random search"] == ("open", "only random search is on this page")


def test_last_says_of_how_many_children(searches, histories, tmp_path):
    page = tmp_path / "page.html"
    write_report(searches[:3], page)
    seen = Text(page.read_text()).text
    assert "“Last 20” is the mean of the newest children that have a reward, 20 of each search" in seen
    late = [sum(history.rewards[-20:]) / 20 for history in histories[:2]]
    assert re.search(
        rf"random random0 , random1 0, 1 .* {100 * sum(late) / 2:.2f} % {100 * min(late):.2f} % to", seen
    )


def test_commands_name_the_search_with_the_best_cell(searches, histories, tmp_path):
    best = max(histories, key=lambda history: history.best[0].reward)
    order = [folder for folder in searches if folder != best.folder] + [best.folder]
    page = tmp_path / "page.html"
    write_report(order, page)
    seen = Text(page.read_text()).text
    assert f"search.rerank dir={best.folder} top=25" in seen
    assert f"search.replay {best.folder} {best.best[0].number}" in seen


@pytest.mark.parametrize("way", ["itself", "a link", "its ledger", "by its parent"])
def test_a_search_is_named_once(searches, capsys, tmp_path, way):
    (tmp_path / "link").symlink_to(searches[0])
    again = {
        "itself": searches[0],
        "a link": tmp_path / "link",
        "its ledger": searches[0] / LEDGER,
        "by its parent": searches[0] / ".." / searches[0].name,
    }[way]
    assert main([str(searches[0]), str(again)]) == 1
    assert capsys.readouterr().err == f"{again}: the same search as {searches[0]}; name each one once\n"
    assert not (searches[0] / "search_report.html").exists()


def test_copies_of_a_search_are_no_further_seeds(searches, tmp_path):
    copy = shutil.copytree(searches[0], tmp_path / "copy")
    found = answers([searches[0], copy], tmp_path / "page.html")
    assert found["Several runs, with their seeds"] == ("no", "runs: random: 1")
    told = Text((tmp_path / "page.html").read_text()).text
    assert re.search(r"\S+, copy: one configuration and one seed, so one search, 2 times", told)
    answers(searches, tmp_path / "page.html")
    assert "so one search" not in (tmp_path / "page.html").read_text()


def test_the_best_so_far_is_drawn_as_steps(searches, tmp_path):
    """No line of these charts, nor an edge of a band, is a slope."""
    page = tmp_path / "page.html"
    write_report(searches, page)
    drawn = re.findall(
        r'<svg class="chart"[^>]*aria-label="Mean reward of the best.*?</svg>', page.read_text()
    )
    assert len(drawn) == 12
    for svg in drawn:
        assert not re.search('class="line', svg)
        for edge in re.findall('class="band line-.*? d="M(.*?)Z"', svg):
            points = [tuple(map(float, point.split())) for point in edge.split("L")]
            turns = itertools.pairwise(points)
            assert all(a == b or a[0] == b[0] or a[1] == b[1] for a, b in turns)


@pytest.mark.parametrize("values", [(0.105, 0.125), (0.9991, 0.9995), (0, 1), (-120.5, -120.1), (0, 123456)])
def test_no_text_of_a_chart_is_clipped(values):
    """A letter is at most 8 pixels wide."""
    whole = {"label": "reward", "x_label": "children", "percent": max(values) <= 1}
    drawn = chart([Series("a", "steps", list(enumerate(values)))], 500, 250, **whole)
    texts = re.findall(r'<text x="([\d.]+)" y="[\d.]+" text-anchor="end">(.*?)</text>', drawn)
    assert len(texts) > 3
    assert all(float(x) >= 8 * len(html.unescape(text)) for x, text in texts)


def test_searches_that_differ_in_their_seeds_are_one_group(histories):
    groups = grouped(histories)
    assert [(group.name, group.seeds) for group in groups] == [("random", [0, 1]), ("controller", [0, 1])]


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
    hours = sum(map(cpu_time, history.rows)) / 3600
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
