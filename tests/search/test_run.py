"""A search as a stage: what it leaves, what it is named by, what it refuses."""

import csv
import dataclasses
import json
import logging
import re
import statistics
from contextlib import closing

import numpy as np
import pytest
import toy_search
import yaml
from PIL import Image
from toy_search import DIGITS, Favourite, ScrambledConfig, evaluator, toy_config

from backbones.genotype import Genotype
from backbones.ranges import ConfigError
from classification.config import ImageDataConfig
from runtime.config import LoggerConfig
from runtime.random import derive
from search.children.config import ChildConfig
from search.config import BudgetConfig, ObjectiveConfig, SpaceConfig
from search.executors.config import InlineConfig
from search.ledger.reader import read_children
from search.ledger.writer import Ledger
from search.messages import SearchPaused
from search.run import _stored_id, run, search_id
from search.space import Space
from search.strategies.config import EvolutionConfig, RandomConfig

CHILDREN = 30


def test_search_writes_the_best_genotype_and_its_origin(tmp_path):
    content = run(toy_config(tmp_path, CHILDREN))
    rows = read_children(tmp_path / "search.sqlite")
    best = max(rows, key=lambda row: (row.reward or 0, -row.number))
    genotype = Genotype.load(tmp_path / "genotype.json")
    assert genotype == best.genotype
    assert genotype.origin["child"] == best.number
    assert genotype.origin["reward"] == best.reward == toy_search.reward(genotype)
    assert genotype.origin["seed"] == 0
    assert genotype.origin["child_seed"] == derive(0, "child", best.cell_key)
    assert content == json.loads((tmp_path / "metrics.json").read_text())
    assert content["metrics"] == {
        "best_reward": best.reward,
        "mean_reward": pytest.approx(sum(row.reward or 0 for row in rows) / CHILDREN),
        "children": CHILDREN,
        "failed": 0,
    }


def test_a_search_that_an_older_version_began_goes_on(tmp_path):
    """A version with fewer keys: neither its configuration nor the ledger's name of the search has them."""
    run(toy_config(tmp_path, 6, data=DIGITS))
    stored = yaml.safe_load((tmp_path / "config.yaml").read_text())
    del stored["strict_hardware"], stored["child"]["deterministic"], stored["data"]["val_fraction"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(stored))
    with closing(Ledger(tmp_path / "search.sqlite")) as ledger:
        ledger.save(facts={"search": _stored_id(tmp_path)})
    run(toy_config(tmp_path, 12, data=DIGITS))
    run(toy_config(tmp_path, 14, data=DIGITS))
    assert len(read_children(tmp_path / "search.sqlite")) == 14
    with pytest.raises(ValueError, match=r"child.deterministic: False -> True"):
        run(toy_config(tmp_path, 16, data=DIGITS, child=ChildConfig(deterministic=True)))
    with closing(Ledger(tmp_path / "search.sqlite")) as ledger:
        ledger.save(facts={"search": "0" * 12})
    with pytest.raises(ValueError, match="this search began with other keys"):
        run(toy_config(tmp_path, 16, data=DIGITS))


def test_finished_search_is_not_run_again(tmp_path):
    first = run(toy_config(tmp_path, 6))
    before = (tmp_path / "metrics.json").stat().st_mtime_ns
    assert run(toy_config(tmp_path, 6)) == first
    assert (tmp_path / "metrics.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "content", ["", "{", '{"metrics": []}', f'{{"metrics": {{"children": {"1" * 5000}}}}}']
)
def test_what_damaged_figures_tell_to_do_gives_them_back(tmp_path, content):
    first = run(toy_config(tmp_path, 6))
    (tmp_path / "metrics.json").write_text(content)
    with pytest.raises(
        ValueError, match=r"metrics\.json.*, or delete it .* makes it again from search\.sqlite$"
    ):
        run(toy_config(tmp_path, 6))
    (tmp_path / "metrics.json").unlink()
    assert run(toy_config(tmp_path, 6)) == first
    assert json.loads((tmp_path / "metrics.json").read_text()) == first


def test_metrics_of_a_smaller_budget_do_not_outlive_a_larger_one(tmp_path, monkeypatch):
    run(toy_config(tmp_path, 4))

    def interrupted(self, genotype, task):
        raise KeyboardInterrupt

    monkeypatch.setattr(Favourite, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(toy_config(tmp_path, 20))
    assert not (tmp_path / "metrics.json").exists()


def test_search_without_any_reward_pauses_with_the_first_failure(tmp_path):
    failures = {number: ["not finite"] for number in range(5)}
    message = "5 children finished, none with a reward; child 0: not finite: as ordered"
    with pytest.raises(SearchPaused, match=message):
        run(toy_config(tmp_path, 5, evaluator=evaluator(failures=failures)))
    assert not (tmp_path / "metrics.json").exists()


def test_ledger_of_another_search_is_refused_with_both_facts(tmp_path):
    config = toy_config(tmp_path, 4)
    run(config)
    with closing(Ledger(tmp_path / "search.sqlite")) as ledger:
        ledger.save(facts={"search": "0123"})
    message = f"search.sqlite: this search began with other keys: search: 0123 -> {search_id(config)}"
    with pytest.raises(ValueError, match=message):
        run(toy_config(tmp_path, 5))


def test_other_pictures_in_the_place_of_those_that_a_search_began_with_are_refused(tmp_path):
    for place, seed in (("one", 0), ("two", 1)):
        noise = np.random.default_rng(seed)
        for label in ("a", "b"):
            folder = tmp_path / place / "train" / label
            folder.mkdir(parents=True)
            for number in range(8):
                pixels = noise.integers(0, 256, (8, 8, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")

    def search(place, children):
        images = ImageDataConfig(name="imagefolder", root=str(tmp_path / place))
        child = ChildConfig(cells_per_stage=1, filters=2, image_size=8, epochs=1, batch_size=2)
        return toy_config(tmp_path / "run", children, evaluator=None, data=images, child=child)

    run(search("one", 2))
    (tmp_path / "one").rename(tmp_path / "elsewhere")
    run(search("elsewhere", 3))
    with pytest.raises(
        ValueError, match=r"search\.sqlite: this search began with other images: split\.pixels"
    ):
        run(search("two", 4))
    assert len(read_children(tmp_path / "run" / "search.sqlite")) == 3


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        ({"cost": "latency", "target": 0.1}, r"^objective\.cost = 'latency', expected one of param"),
        ({"target": 3.0}, r"^cost = None, target = 3\.0; expected a cost and the value of it"),
        ({"cost": "parameters"}, r"^cost = parameters, target = None; expected a cost and the"),
    ],
)
def test_an_objective_that_cannot_be_reckoned_is_refused_before_anything_starts(tmp_path, objective, message):
    with pytest.raises(ValueError, match=message):
        toy_config(tmp_path, 4, evaluator=None, objective=ObjectiveConfig(**objective))


@pytest.mark.parametrize("strict", [False, True])
def test_other_hardware_is_warned_of_or_refused(tmp_path, caplog, strict):
    run(toy_config(tmp_path, 4))
    with closing(Ledger(tmp_path / "search.sqlite")) as ledger:
        before = ledger.fact("hardware")
        ledger.save(facts={"hardware": {**before, "capability": "other", "torch": "2.0"}})
    config = toy_config(tmp_path, 6, strict_hardware=strict)
    changes = f"torch 2.0 -> {before['torch']}, capability other -> {before['capability']}"
    if strict:
        with pytest.raises(ValueError, match=re.escape(f"({changes}), and strict_hardware is true")):
            run(config)
    else:
        run(config)
        assert f"other hardware or software ({changes}): from here on its numbers" in caplog.text
    assert len(read_children(tmp_path / "search.sqlite")) == (4 if strict else 6)


@pytest.mark.parametrize(("slots", "warned"), [(2, False), (3, True)])
def test_more_workers_than_half_the_window_are_warned_of(tmp_path, caplog, slots, warned):
    run(toy_config(tmp_path, 4, window=4, strategy=RandomConfig(), executor=ScrambledConfig(slots=slots)))
    found = [record.message for record in caplog.records if "window" in record.message]
    assert found == ["window = 4, below twice the 3 workers: some will idle"] * warned


def test_search_is_named_by_what_decides_its_proposals():
    images = ImageDataConfig(name="cifar10", root="here")
    config = toy_config("run", 4, data=images)
    name = search_id(config)
    assert re.fullmatch("[0-9a-f]{12}", name)
    elsewhere = dataclasses.replace(images, root="there", workers=9, download=True)
    logger = dataclasses.replace(config.logger, name="csv")
    for same in (
        {"budget": BudgetConfig(children=9)},
        {"executor": ScrambledConfig()},
        {"data": elsewhere},
        {"run_dir": "other"},
        {"logger": logger},
    ):
        assert search_id(dataclasses.replace(config, **same)) == name
    for other in (
        {"seed": 1},
        {"window": 5},
        {"strategy": RandomConfig()},
        {"data": dataclasses.replace(images, train_limit=7)},
        {"evaluator": evaluator(diary="other")},
    ):
        assert search_id(dataclasses.replace(config, **other)) != name


@pytest.mark.parametrize("executor", [InlineConfig(), ScrambledConfig(slots=3, seed=2)])
def test_logged_figures_end_as_the_metrics_digit_for_digit(tmp_path, executor):
    scale = {"_target_": "toy_search.score", "scale": 1 / 3}  # sums of thirds depend on their order
    logger = LoggerConfig(name="csv")
    config = toy_config(tmp_path, 12, evaluator=scale, logger=logger, executor=executor)
    metrics = run(dataclasses.replace(config, strategy=RandomConfig()))["metrics"]
    rows = read_children(tmp_path / "search.sqlite")
    rewards = [row.reward for row in rows]
    with (tmp_path / "metrics.csv").open() as file:
        logged = list(csv.DictReader(file))
    assert len(logged) == len([row for row in rows if row.original is None])
    assert [float(row["reward"]) for row in logged] == [rewards[int(float(row["child"]))] for row in logged]
    assert int(logged[-1]["step"]) == len(rows)
    assert float(logged[-1]["best"]) == metrics["best_reward"] == max(rewards)
    assert float(logged[-1]["mean"]) == metrics["mean_reward"] == statistics.mean(rewards)


def test_another_configuration_is_refused_in_the_same_folder(tmp_path):
    run(toy_config(tmp_path, 4))
    with pytest.raises(ValueError, match="window: 4 -> 5"):
        run(toy_config(tmp_path, 4, window=5))


def test_a_search_continues_where_its_images_have_moved(tmp_path):
    there = ImageDataConfig(name="cifar10", root="there", workers=2)
    run(toy_config(tmp_path, 4, data=there))
    here = dataclasses.replace(there, root="here", workers=0, download=True)
    assert run(toy_config(tmp_path, 6, data=here))["metrics"]["children"] == 6
    with pytest.raises(ValueError, match=r"data\.name: cifar10 -> digits"):
        run(toy_config(tmp_path, 6, data=ImageDataConfig(name="digits")))


def test_known_cells_are_the_first_children_of_a_search(tmp_path):
    space = Space(blocks=2)
    known = [space.decode(space.sample(99, number)) for number in range(3)]
    for number, genotype in enumerate(known):
        genotype.save(tmp_path / f"{number}.json")
    strategy = EvolutionConfig(population=4, start=[str(tmp_path / f"{number}.json") for number in range(3)])
    run(toy_config(tmp_path / "run", 12, space=SpaceConfig(blocks=2), strategy=strategy))
    rows = read_children(tmp_path / "run" / "search.sqlite")
    assert [row.genotype for row in rows[:3]] == known
    assert all(row.reward == toy_search.reward(row.genotype) for row in rows)
    space.decode(space.sample(98, 0)).save(tmp_path / "1.json")
    with pytest.raises(ConfigError, match=r"strategy\.start: .*1\.json holds another cell"):
        run(toy_config(tmp_path / "run", 14, space=SpaceConfig(blocks=2), strategy=strategy))
    assert len(read_children(tmp_path / "run" / "search.sqlite")) == 12


def test_known_cells_outside_the_space_are_refused_before_anything_starts(tmp_path):
    space = Space(blocks=1)
    space.decode(space.sample(0, 0)).save(tmp_path / "one.json")
    strategy = RandomConfig(start=[str(tmp_path / "one.json")])
    message = r"^strategy.start: .*one.json: normal has 1 block, this space has 2$"
    with pytest.raises(ValueError, match=message):
        run(toy_config(tmp_path / "run", 4, space=SpaceConfig(blocks=2), strategy=strategy))
    missing = RandomConfig(start=[str(tmp_path / "none.json")])
    with pytest.raises(FileNotFoundError, match=r"none\.json"):
        run(toy_config(tmp_path / "run", 4, strategy=missing))
    assert not (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.parametrize(
    ("strategy", "children", "warned"),
    [(EvolutionConfig(), 39, True), (EvolutionConfig(), 40, False), (RandomConfig(), 39, False)],
)
def test_a_budget_too_small_to_learn_from_is_warned_of(tmp_path, caplog, strategy, children, warned):
    with caplog.at_level(logging.WARNING, "search.run"):
        run(toy_config(tmp_path, children, strategy=strategy, window=2))
    message = (
        f"budget.children = {children} is less than 20 x window = 40: strategy=evolution learns little in so "
        "short a search, which is close to a random one"
    )
    assert [record.message for record in caplog.records if record.name == "search.run"] == [message] * warned
