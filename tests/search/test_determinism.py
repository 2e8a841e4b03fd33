"""One digest, whatever the workers, the order in which they finish, the faults and the kills."""

import random
from itertools import count

import pytest
from fault_points import in_fork, in_memory, kill_at_point
from toy_search import FAVOURITE, ScrambledConfig, evaluator, toy_config

from search.config import BudgetConfig, LimitsConfig, ObjectiveConfig, SpaceConfig
from search.ledger.digest import digest
from search.ledger.reader import LEDGER, read_children
from search.messages import Failure
from search.run import run
from search.strategies.config import ControllerConfig, EvolutionConfig, RandomConfig

CHILDREN = 24
STRATEGIES = {
    "controller": ControllerConfig(architectures_per_update=3, lr=0.01, hidden=8),
    "random": RandomConfig(),
    "evolution": EvolutionConfig(population=6, sample=3),
}
FEW_CELLS = SpaceConfig(blocks=1, operations=[FAVOURITE, "conv_1x1"], combinations=["add"])


@pytest.fixture
def folder(tmp_path):
    with in_memory(tmp_path) as folder:
        yield folder


def world(strategy, seed):
    """A search with duplicates, rejected cells, cost in the reward, and children that fail for good."""
    draw = random.Random(seed)
    budget = BudgetConfig(children=CHILDREN, max_attempts=99)
    failures = {number: ["not finite"] * 99 for number in draw.sample(range(CHILDREN), 3)}
    return {
        "strategy": STRATEGIES[strategy],
        "seed": seed,
        "space": FEW_CELLS,
        "limits": LimitsConfig(parameters=100_000),  # of 46,000 to 124,000
        "objective": ObjectiveConfig(cost="multiply_adds", target=1.7e7, exponent=draw.uniform(-1, 1)),
        "evaluator": evaluator(failures=failures),
        "budget": budget,
    }


def with_retries(settings, draw):
    """The same search on hosts that are lost and devices that are full at times."""
    failures = dict(settings["evaluator"]["failures"])
    for number in draw.sample(sorted({*range(CHILDREN)} - failures.keys()), 5):
        failures[number] = draw.choices(["host lost", "out of memory"], k=1)
    return settings | {"evaluator": evaluator(failures=failures)}


def check_world(folder, strategy, seed):
    settings, draw = world(strategy, seed), random.Random(seed + 1000)
    run(toy_config(folder / "inline", CHILDREN, **settings))
    rows = read_children(folder / "inline" / LEDGER)
    whole = digest(folder / "inline" / LEDGER)
    for slots in (2, 8):
        executor = ScrambledConfig(slots=slots, seed=draw.randrange(1000))
        faulty = with_retries(settings, draw)
        run(toy_config(folder / str(slots), CHILDREN, executor=executor, **faulty))
        assert digest(folder / str(slots) / LEDGER) == whole, f"{slots} workers"
    run_dir, killed = folder / "killed", 0
    for life in count():
        executor = ScrambledConfig(slots=draw.choice([1, 2, 8]), seed=life)
        point = draw.randint(20, 250)

        def living(executor=executor, point=point):
            kill_at_point(run_dir, point)
            run(toy_config(run_dir, CHILDREN, executor=executor, **settings))

        code = in_fork(living, folder / "log")
        assert code in (0, -9), (folder / "log").read_text()
        if code == 0:
            break
        killed += 1
    assert digest(run_dir / LEDGER) == whole, f"{killed} kills"
    return killed, rows


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_workers_order_faults_and_kills_change_nothing(folder, strategy):
    killed, rows = check_world(folder, strategy, 0)
    assert killed > 0
    assert any(row.original is not None for row in rows)
    assert {row.failure for row in rows} == {None, Failure.REJECTED, Failure.NOT_FINITE}
    assert any(row.reward != row.accuracy for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_workers_order_faults_and_kills_change_nothing_for_any_seed(folder, strategy):
    for seed in range(1, 21):
        check_world(folder / str(seed), strategy, seed)
