"""A simulated search: the loop's laws on times that are never waited for, and what it prints."""

import math
import statistics

import pytest

from conf.compose import composed
from search.ledger.reader import read_children
from search.simulation import Times, run, simulate
from search.space import Space

SMALL = ["space.blocks=2", "strategy=random", "children=240"]


def simulated(*words):
    return simulate(composed("search_simulate", *SMALL, *words))


def proposals(outcome):
    return [(row.number, row.decisions, row.start, row.finish) for row in outcome.rows]


def test_twice_the_workers_keep_them_busy_and_half_of_them_do_not():
    half, twice = (simulated("workers=8", f"window={window}") for window in (4, 16))
    assert half.utilisation_proposing <= 0.5  # at most 4 children are known at a time
    assert twice.utilisation_proposing >= 0.97
    for outcome in (half, twice):
        assert outcome.utilisation < outcome.utilisation_proposing
        # The area under the workers is the work, whatever the order.
        work = sum(row.seconds for row in outcome.rows)
        assert work / (8 * 3600 * outcome.hours) == pytest.approx(outcome.utilisation, abs=1e-6)
    assert twice.hours < half.hours


@pytest.mark.parametrize(("order", "equal"), [("virtual", True), ("arrival", False)])
def test_only_in_virtual_order_the_number_of_workers_changes_nothing(order, equal):
    words = ("children=30", "window=8", "strategy=controller", "strategy.architectures_per_update=4")
    one, other = (proposals(simulated(*words, f"order={order}", f"workers={n}")) for n in (3, 6))
    assert (one == other) == equal


def test_order_of_arrival_never_waits_and_says_what_it_is(capsys):
    config = composed("search_simulate", *SMALL, "children=100", "workers=8", "order=arrival")
    metrics = run(config)["metrics"]
    assert metrics["utilisation_proposing"] == 1.0
    shown = capsys.readouterr().out
    assert "8 workers, window 8, " in shown
    assert "can be neither repeated nor resumed" in shown


def test_true_times_are_spread_as_asked_for_and_belong_to_the_cell():
    space = Space(2)
    config = composed("search_simulate", *SMALL, "spread=3")
    times, exact = Times(config), Times(composed("search_simulate", *SMALL, "spread=1"))
    cells = [space.decode(space.sample(0, number)) for number in range(500)]
    ratios = [times.true_cost(cell).microseconds / times.cost(cell).microseconds for cell in cells]
    ventiles = statistics.quantiles(ratios, n=20)
    assert math.isclose(ventiles[-1] / ventiles[0], 3, rel_tol=0.15)
    assert times.true_cost(cells[0]) == Times(config).true_cost(cells[0])
    assert exact.true_cost(cells[0]) == exact.cost(cells[0])


def test_rewards_are_counted_from_those_of_random_cells():
    outcome = simulated("workers=4", "window=8")
    assert outcome.late == 60
    assert abs(outcome.late_z) < 3 / math.sqrt(60)
    assert {*outcome.cpu} >= {"propose", "admission", "ledger", "rest"}


def test_the_ledger_is_kept_where_asked_for_and_never_overwritten(tmp_path):
    path = tmp_path / "kept.sqlite"
    outcome = simulated("children=20", f"ledger_file={path}", "window=4", "workers=2")
    assert outcome.ledger_bytes == path.stat().st_size
    assert [row.decisions for row in read_children(path)] == [row.decisions for row in outcome.rows]
    with pytest.raises(ValueError, match=r"ledger_file = .*kept.sqlite: exists"):
        simulated(f"ledger_file={path}")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("order=any", "order = 'any', expected one of virtual, arrival"),
        ("spread=0.5", "spread = 0.5, must be in 1..1000"),
        ("workers=0", "workers = 0, must be at least 1"),
        ("window=1000000", "window = 1000000, must be at most 100000"),
    ],
)
def test_settings_are_checked(word, message):
    with pytest.raises(ValueError, match=message):
        composed("search_simulate", word)
