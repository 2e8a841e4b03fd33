"""What the charts of a page of searches have in common: colours, units, and which searches share a front."""

import re
import shutil
from contextlib import closing

import pytest
from toy_search import evaluator, toy_config

from search.comparison import comparable
from search.config import SpaceConfig
from search.curves import front_of
from search.history import History, grouped
from search.ledger.located import located
from search.ledger.reader import LEDGER
from search.ledger.writer import Ledger
from search.report import write_report
from search.report_charts import top_charts
from search.run import run
from search.strategies.config import EvolutionConfig, RandomConfig


@pytest.fixture(scope="module")
def searches(tmp_path_factory):
    root = tmp_path_factory.mktemp("searches")
    space = SpaceConfig(blocks=2)
    for strategy in (RandomConfig(), EvolutionConfig(population=5, sample=3)):
        run(toy_config(root / strategy.name, 30, space=space, strategy=strategy))
    return [root / "random", root / "evolution"]


def changed(folder, to, old, new):
    shutil.copytree(folder, to)
    config = (to / "config.yaml").read_text()
    assert old in config
    (to / "config.yaml").write_text(config.replace(old, new))
    return to


def scaled(folder, factor):
    """Multiplies the times of all children."""
    with closing(Ledger(folder / LEDGER)) as ledger, ledger.transaction() as database:
        database.execute(
            "UPDATE children SET seconds = ?1 * seconds, cpu_seconds = ?1 * cpu_seconds", [factor]
        )


def histories(*folders):
    return [History.read(located(folder)) for folder in folders]


def test_an_option_has_one_colour_on_the_whole_page(searches, tmp_path):
    page = write_report(searches, tmp_path / "page.html").read_text()
    rows = re.findall(r'<tr class="stack-(\d+)"><th scope="row"><i></i>(.*?)</th>', page)
    areas = re.findall(r'<path class="band stack-(\d+)" d="[^"]*"><title>(.*?): ', page)
    assert len(rows) == 2 * (13 + 3)
    assert set(areas) == set(rows)
    operations = {(colour, name) for colour, name in rows if name not in ("h_i", "h_i-1", "a block")}
    assert len(operations) == len({colour for colour, _ in operations}) == 13
    order = [name for _, name in rows]
    assert order[:13] != order[16:29]  # the most frequent one lies at the ground, in both


@pytest.mark.parametrize(
    ("seconds", "unit"), [(9000, "hours"), (90, "minutes"), (40, "seconds"), (0.05, "milliseconds")]
)
def test_cpu_time_is_drawn_in_a_unit_that_the_searches_fill(searches, tmp_path, seconds, unit):
    folder = shutil.copytree(searches[0], tmp_path / "search")
    (now,) = histories(folder)
    assert 0 < now.cpu_hours < 1
    scaled(folder, seconds / (3600 * now.cpu_hours))
    _, drawn = top_charts(grouped(histories(folder)), 1, True)
    assert f"CPU-{unit}</text>" in drawn[0]
    assert len(re.findall('text-anchor="middle"', drawn[0])) > 2  # ticks below the axis, and its name


def test_times_that_nobody_knows_are_not_drawn(searches, tmp_path):
    folder = shutil.copytree(searches[0], tmp_path / "search")
    scaled(folder, 0)
    ((drawn, _),) = top_charts(grouped(histories(folder)), 1, True)
    assert "children" in drawn


def test_why_nothing_is_said_of_what_was_chosen(searches, tmp_path):
    run(toy_config(tmp_path / "short", 7))
    page = write_report([tmp_path / "short"]).read_text()
    assert "What was chosen is shown in windows of 20 children; here 7 children are done so far." in page
    other = changed(searches[0], tmp_path / "other", "blocks: 2", "blocks: 3")
    page = write_report([other]).read_text()
    assert "other: config.yaml names no space that this version knows" in page
    assert "are done so far" not in page


def test_a_front_is_of_searches_that_can_be_compared(searches, tmp_path):
    random, evolution = searches
    other = changed(random, tmp_path / "other", "epochs: 20", "epochs: 10")
    weighed = changed(random, tmp_path / "weighed", "exponent: -0.07", "exponent: -0.5")
    split = shutil.copytree(evolution, tmp_path / "split")
    with closing(Ledger(split / LEDGER)) as ledger:
        ledger.save(facts={"split": {"sha256": "another"}})
    found = histories(random, other, evolution, weighed, split)
    names = [[search.folder.name for search in each] for each in comparable(found)]
    assert names == [["random", "evolution", "weighed"], ["other"], ["split"]]
    page = write_report([random, other, evolution], tmp_path / "page.html").read_text()
    heads = re.findall(r"<h3>Accuracy against parameters: (.*?)</h3>", page)
    assert heads == ["random 1, evolution", "random 2"]
    both = [row for search in histories(random, evolution) for row in search.unique]
    (alone,) = histories(other)
    sizes = [len(front_of(rows, "parameters")) for rows in (both, alone.unique)]
    parameters = page.split("<h3>Accuracy against parameters")[1:3]
    assert [int(re.search(r"<caption>(\d+) on the front", part)[1]) for part in parameters] == sizes
    page = write_report(searches, tmp_path / "page.html").read_text()
    assert "<h3>Accuracy against parameters</h3>" in page


def test_times_that_an_evaluator_leaves_out_are_measured(tmp_path):
    run(toy_config(tmp_path, 5, evaluator=evaluator(failures={1: ["invalid"]})))
    (search,) = histories(tmp_path)
    assert search.rows[1].failure == "invalid"
    assert all(row.seconds > 0 for row in search.rows if row.original is None)
