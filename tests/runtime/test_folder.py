import logging
from dataclasses import dataclass, field

import pytest
import yaml

from backbones.files import read_json
from runtime.config import LoggerConfig
from runtime.folder import RunFolder


@dataclass(kw_only=True)
class Part:
    rate: float = 0.1
    sizes: list[int] = field(default_factory=lambda: [1, 2])


@dataclass(kw_only=True)
class Config:
    run_dir: str
    seed: int = 0
    part: Part = field(default_factory=Part)
    budget: Part = field(default_factory=Part)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    genotype: str = "nasnet_a"


def opened(tmp_path, **changes):
    config = Config(run_dir=str(tmp_path / "run"), **changes)
    return RunFolder.open(config.run_dir, config, stage="search", may_change=["budget", "part.rate"])


def test_a_run_records_what_was_asked_with_which_versions(tmp_path):
    folder = opened(tmp_path, seed=3)
    stored = yaml.safe_load((folder.path / "config.yaml").read_text())
    assert stored["seed"] == 3
    assert stored["part"] == {"rate": 0.1, "sizes": [1, 2]}
    assert set(read_json(folder.path / "versions.json", "versions")) >= {"python", "torch", "lightning"}


def test_the_same_configuration_continues_and_another_is_refused_with_the_difference(tmp_path):
    opened(tmp_path)
    opened(tmp_path)
    with pytest.raises(ValueError, match="another configuration") as error:
        opened(tmp_path, seed=1, part=Part(sizes=[1]))
    assert "seed: 0 -> 1" in str(error.value)
    assert "part.sizes: [1, 2] -> [1]" in str(error.value)
    assert "rate" not in str(error.value)


def test_keys_that_may_change_do_not_make_another_run(tmp_path):
    opened(tmp_path)
    changed = {"budget": Part(rate=9.0), "part": Part(rate=0.5), "logger": LoggerConfig(name="none")}
    folder = opened(tmp_path, **changed)
    assert yaml.safe_load((folder.path / "config.yaml").read_text())["budget"]["rate"] == 9.0


def test_an_input_file_is_compared_by_content_wherever_it_lies(tmp_path):
    first, moved = tmp_path / "genotype.json", tmp_path / "elsewhere" / "genotype.json"
    first.write_text("{}")
    moved.parent.mkdir()
    moved.write_text("{}")
    opened(tmp_path, genotype=str(first))
    opened(tmp_path, genotype=str(moved))
    moved.write_text("[]")
    with pytest.raises(ValueError, match=r"genotype: [0-9a-f]+ -> [0-9a-f]+ \(content\)"):
        opened(tmp_path, genotype=str(moved))
    with pytest.raises(ValueError, match=r"genotype: .*elsewhere.* -> nasnet_a"):
        opened(tmp_path)


def test_metrics_mark_a_finished_run_and_are_never_half_written(tmp_path):
    folder = opened(tmp_path)
    assert folder.finished() is None
    with pytest.raises(ValueError, match="Out of range float"):
        folder.finish("search", "validation", {"best_reward": float("nan")})
    assert folder.finished() is None
    content = folder.finish("search", "validation", {"best_reward": 0.5}, {"a": 0.25})
    assert content == folder.finished()
    assert content == {
        "stage": "search",
        "split": "validation",
        "metrics": {"best_reward": 0.5},
        "per_class": {"a": 0.25},
    }


def test_the_log_goes_to_the_folder_of_the_newest_run(tmp_path):
    first = opened(tmp_path / "a")
    logging.getLogger("search").warning("to the first")
    second = opened(tmp_path / "b")
    logging.getLogger("search").warning("to the second")
    assert "to the second" not in (first.path / "log.txt").read_text()
    text = (second.path / "log.txt").read_text()
    assert "to the second" in text
    assert "to the first" not in text


def test_a_run_that_was_stored_with_an_old_name_of_a_key_goes_on(tmp_path):
    asked = {"recipe": {"lr": 0.1, "reference_batch_size": 64}}
    folder = RunFolder.open(str(tmp_path), asked, stage="classification")
    stored = folder.path / "config.yaml"
    stored.write_text(stored.read_text().replace("reference_batch_size", "lr_batch_size"))
    RunFolder.open(str(tmp_path), asked, stage="classification")
    stored.write_text(stored.read_text().replace("reference_batch_size: 64", "lr_batch_size: 32"))
    with pytest.raises(ValueError, match=r"recipe\.reference_batch_size: 32 -> 64"):
        RunFolder.open(str(tmp_path), asked, stage="classification")
