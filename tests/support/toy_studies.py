"""Small studies of cells, and evaluators for them that other processes can import."""

import math
import shlex

import yaml
from commands import run_here
from toy_search import toy_config

from classification.config import ImageDataConfig
from search.children.config import ChildConfig
from search.config import ObjectiveConfig
from search.executors.config import InlineConfig
from search.messages import Result
from search.studies_config import LongerConfig, ProbeConfig, RerankConfig


class Noisy:
    """Scores by the cell and the seed, and counts."""

    calls = 0

    def __call__(self, genotype, task):
        Noisy.calls += 1
        accuracy = int(genotype.key, 16) % 1000 / 1000
        noise = task.seed % 1000 / 1e5
        return Result(task.proposal, reward=accuracy + noise, metrics={"latency": 1.0 + accuracy})


def reranking(searched, **settings):
    settings = {"top": 4, "seeds": 3, "executor": InlineConfig(), "child": LongerConfig(epochs=7)} | settings
    return RerankConfig(dir=str(searched), run_dir=str(searched / "rerank"), **settings)


def typed(messages):
    """The words of the command in the last line that a study logged."""
    line = messages[-1]
    assert line.startswith("next: "), line
    return shlex.split(line.partition("python -m ")[2])


def composed(*words, cwd):
    """What `python -m` words gives, without a run; references resolved."""
    done = run_here(*words, "--cfg", "job", "--resolve", cwd=cwd)
    assert (done.returncode, done.stderr) == (0, "")
    return yaml.safe_load(done.stdout)


def probing(run_dir, **settings):
    toy = toy_config("", 1)
    common = {"cells": 8, "data": ImageDataConfig(), "space": toy.space, "executor": InlineConfig()}
    chosen = {"child": ChildConfig(epochs=2), "evaluator": {"_target_": "toy_studies.Noisy"}}
    return ProbeConfig(run_dir=str(run_dir), **{**common, **chosen, **settings})


class Broken:
    """Fails with every cell."""

    def __call__(self, genotype, task):
        return math.nan


class Learner:
    """Scores a cell by its key and the epochs; the key is what it becomes, the noise goes with the epochs."""

    def __init__(self, child, seed=0):
        self.epochs, self.seed = child["epochs"], seed

    def __call__(self, genotype, task):
        noise = task.seed % 1000 / 10_000 / self.epochs
        return (int(genotype.key, 16) % 1000 / 1000 + noise) * (1 - 0.5**self.epochs)


LEARNER = {"_target_": "toy_studies.Learner", "child": "${child}", "seed": "${seed}"}


def constant(genotype, task):
    return 0.1


OBJECTIVE = ObjectiveConfig(cost="parameters", target=1e4, exponent=-1)
