"""Recorded searches: what is shared of one, what a surrogate learns from it, and a search on it."""

import dataclasses
import sqlite3
from contextlib import closing

import numpy as np
import pytest
from toy_search import DIGITS, Favourite, evaluator, reward, toy_config

from backbones.ranges import ConfigError
from runtime.config import LoggerConfig
from search.children.config import ChildConfig
from search.config import SearchConfig
from search.ledger.reader import LEDGER, read_children
from search.ledger.rows import unique
from search.messages import ChildFailed, ChildTask, Proposal
from search.report import write_report
from search.run import run
from search.share import main, share
from search.space import Space
from search.status import main as status
from search.strategies.config import ControllerConfig, EvolutionConfig, RandomConfig
from search.surrogate import main as surrogate
from search.table import recorded as module
from search.table.features import NAMES, features
from search.table.recorded import Recorded, trained
from search.table.surrogate import Surrogate, cross_validated, table

pytest.importorskip("sklearn")
CHILDREN = 60
FAILED = 3
NO_LOGGER = LoggerConfig(name="none")


@pytest.fixture(scope="module")
def random_search(tmp_path_factory):
    """Uniform cells of which one fails."""
    folder = tmp_path_factory.mktemp("random")
    failing = evaluator(failures={FAILED: ["not finite"]})
    data = dataclasses.replace(DIGITS, root="/of/one/user")
    run(toy_config(folder, CHILDREN, evaluator=failing, strategy=RandomConfig(), logger=NO_LOGGER, data=data))
    return folder


@pytest.fixture(scope="module")
def shared(random_search, tmp_path_factory):
    return share(random_search, tmp_path_factory.mktemp("shared") / "uniform")


def task(genotype, seed=0):
    return ChildTask(Proposal(0, genotype, ()), seed)


def test_a_shared_search_holds_its_children_and_no_place_of_this_machine(random_search, shared, capsys):
    kept, whole = read_children(shared / LEDGER), read_children(random_search / LEDGER)
    assert [dataclasses.replace(row, curve=(), log_probs=None) for row in whole] == kept
    assert sorted(path.name for path in shared.iterdir()) == ["config.yaml", LEDGER]
    content = b"".join(path.read_bytes() for path in shared.iterdir())
    with closing(sqlite3.connect(random_search / LEDGER)) as database:
        (host,) = database.execute("SELECT DISTINCT host FROM attempts").fetchone()
    assert host.encode() not in content
    assert str(random_search).encode() not in content
    assert b"/of/one/user" not in content
    assert (shared / LEDGER).stat().st_size <= (random_search / LEDGER).stat().st_size
    assert status([str(shared)]) == 0
    assert f"{CHILDREN} of {CHILDREN} done" in capsys.readouterr().out
    assert write_report([shared], shared.parent / "page.html").stat().st_size > 10_000


def test_a_shared_search_is_never_continued(random_search, tmp_path):
    folder = share(random_search, tmp_path / "shared")
    failing = evaluator(failures={FAILED: ["not finite"]})
    more = toy_config(
        folder, 2 * CHILDREN, evaluator=failing, strategy=RandomConfig(), logger=NO_LOGGER, data=DIGITS
    )
    with pytest.raises(ValueError, match="no state of the strategy"):
        run(more)


def test_a_search_that_is_shared_while_it_runs_is_a_copy_and_not_killed(tmp_path, capsys, monkeypatch):
    def shares(self, genotype, task):
        if task.proposal.number == 6:
            share(tmp_path / "run", tmp_path / "copy")
        return honest(self, genotype, task)

    honest = Favourite.__call__
    monkeypatch.setattr(Favourite, "__call__", shares)
    run(toy_config(tmp_path / "run", 9, strategy=RandomConfig(), logger=NO_LOGGER))
    done = sum(row.status == "done" for row in read_children(tmp_path / "copy" / LEDGER))
    assert 3 < done < 9
    assert status([str(tmp_path / "copy")]) == 0
    said = capsys.readouterr().out
    assert f"copy (a copy of a search at {done} of 9 children) " in " ".join(said.split())  # may be folded
    assert f"{done} of 9 done, 0 running, " in said
    assert said.splitlines()[-3] == "search.share wrote this copy, which is not continued."
    for word in ("killed", "ETA", "broken off", "continues it"):
        assert word not in said
    page = write_report([tmp_path / "copy"], tmp_path / "page.html").read_text()
    assert f"a copy of a search at {done} of 9 children" in page


@pytest.mark.parametrize("where", ["itself", "another run"])
def test_sharing_overwrites_no_run(random_search, tmp_path, capsys, where):
    target = random_search
    if where == "another run":
        target = tmp_path / "run"
        run(toy_config(target, 4, strategy=RandomConfig(), logger=NO_LOGGER))
    before = (target / LEDGER).read_bytes()
    assert main([str(random_search), str(target)]) == 1
    assert str(target) in capsys.readouterr().err
    assert (target / LEDGER).read_bytes() == before


def test_features_are_those_of_the_canonical_cell():
    space, child = Space(), ChildConfig(cells_per_stage=1, filters=8)
    cells = [space.decode(space.sample(0, number)) for number in range(20)]
    rows = np.array([features(cell, child) for cell in cells])
    assert rows.shape == (20, len(NAMES))
    assert np.array_equal(rows, [features(cell.canonical(), child) for cell in cells])
    assert len(np.unique(rows, axis=0)) == 20
    operations = [
        name for name in NAMES if name.startswith("normal: ") and ("conv" in name or "pool" in name)
    ]
    of_normal = rows[:, [NAMES.index(name) for name in (*operations, "normal: identity")]].sum(axis=1)
    assert np.array_equal(of_normal, 2 * rows[:, NAMES.index("normal: blocks")])


def test_a_surrogate_ranks_cells_that_it_has_not_seen_and_nothing_where_scores_are_chance(shared):
    rows = trained([shared]).learned
    cells = [row.genotype for row in rows]
    numbers = table(cells, ChildConfig())
    quick = ("gaussian", "ridge")
    qualities = cross_validated(numbers, np.array([row.accuracy for row in rows]), quick)
    for name in quick:
        assert qualities[name].tau > 0.8
        assert qualities[name].error < qualities[name].floor / 2
    shuffled = np.random.default_rng(0).permutation([row.accuracy for row in rows])
    assert max(each.tau for each in cross_validated(numbers, shuffled, quick).values()) < 0.3
    model = Surrogate(cells, [row.accuracy for row in rows], ChildConfig())
    space = Space()
    fresh = [space.decode(space.sample(5, number)) for number in range(30)]
    assert np.corrcoef([model(cell) for cell in fresh], [reward(cell) for cell in fresh])[0, 1] > 0.8


def test_recorded_cells_have_their_rewards_and_others_predictions(shared):
    rows, known = read_children(shared / LEDGER), Recorded([str(shared)], noise=0.05)
    for row in rows[:10]:
        if row.number == FAILED:
            with pytest.raises(ChildFailed, match="not finite: as ordered"):
                known(row.genotype, task(row.genotype))
            continue
        assert known(row.genotype.canonical(), task(row.genotype)).reward == row.reward
    space = Space.of(toy_config("", 1).space)
    fresh = space.decode(space.sample(77, 0))
    answers = [known(fresh, task(fresh, seed)) for seed in (1, 1, 2)]
    assert answers[0] == answers[1]
    assert answers[0].reward != answers[2].reward
    assert answers[0].detail == "predicted by the surrogate"
    assert abs(answers[0].reward - reward(fresh)) < 0.3


def test_a_search_runs_on_the_recorded_cells(shared, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "SHIPPED", shared.parent)
    config = toy_config(
        tmp_path, 200, evaluator="recorded", strategy=EvolutionConfig(population=20, sample=5), window=5
    )
    run(dataclasses.replace(config, logger=NO_LOGGER))
    rewards = [row.reward for row in read_children(tmp_path / LEDGER) if row.reward is not None]
    assert np.mean(rewards[-50:]) > np.mean(rewards[:20]) + 0.1
    assert surrogate([]) == 0
    said = capsys.readouterr().out
    assert f"{len(unique(read_children(shared / LEDGER)))} cells, accuracy" in said
    assert "_target_:search.table.recorded.Recorded" in said


def test_only_searches_without_reward_are_learned_from_and_all_must_train_alike(shared, tmp_path):
    failing = evaluator(failures={FAILED: ["not finite"]})
    led, other = tmp_path / "controller", tmp_path / "other"
    run(toy_config(led, 10, evaluator=failing, strategy=ControllerConfig(), logger=NO_LOGGER, data=DIGITS))
    both = trained([shared, led])
    assert [row.number for row in both.learned] == [
        row.number for row in unique(read_children(shared / LEDGER))
    ]
    assert {row.cell_key for row in read_children(led / LEDGER)} <= both.rows.keys()
    run(toy_config(other, 25, strategy=RandomConfig(), logger=NO_LOGGER, data=DIGITS))
    with pytest.raises(ConfigError, match=rf"{other}: trains otherwise than {shared}: evaluator"):
        trained([shared, other])
    with pytest.raises(ConfigError, match=r"^0 cells .* from searches with strategy=random or prim_skip"):
        Recorded([str(led)])


def test_the_files_of_a_shared_search_name_what_is_wrong(shared, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "SHIPPED", tmp_path)
    assert surrogate([]) == 1
    assert surrogate([str(tmp_path)]) == 1
    assert main([str(tmp_path), str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.count(str(tmp_path)) == 3
    with pytest.raises(ConfigError, match="evaluator = 'recordd', expected recorded"):
        SearchConfig(run_dir="", data=None, strategy=None, executor=None, evaluator="recordd")
