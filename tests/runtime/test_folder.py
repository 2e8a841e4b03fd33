import json
import logging
import os
from dataclasses import dataclass, field

import pytest
import yaml

from backbones.files import read_json
from classification.config import ClassificationConfig, ImageDataConfig, RecipeConfig
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


def test_the_folder_of_another_command_is_said_to_be_one(tmp_path):
    opened(tmp_path)
    stored = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    other = {"detector": {"name": "c4"}} | {key: value for key, value in stored.items() if key != "part"}
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(other))
    with pytest.raises(ValueError) as error:
        opened(tmp_path)
    assert str(error.value) == (
        f"{tmp_path / 'run' / 'config.yaml'} is of another command: a search run does not have the keys "
        "['detector']; choose another run_dir"
    )


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


def test_a_folder_of_something_else_is_refused_and_left(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    for name in ("metrics.json", "notes.md", "log.txt", "checkpoints"):
        (run / name).write_text("mine")
        with pytest.raises(ValueError) as error:
            opened(tmp_path)
        assert str(error.value) == (
            f"{run} holds {name}, but no config.yaml, so it is not the folder of a search run; choose "
            "another run_dir, or restore config.yaml if it is"
        )
        assert [(path.name, path.read_text()) for path in run.iterdir()] == [(name, "mine")]
        (run / name).unlink()


def test_what_a_shell_or_a_kill_left_does_not_make_a_folder_anothers(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "slurm-7.out").write_text("the job's output")
    (run / "inputs.json").write_text("{}")  # written just before config.yaml
    (run / ".config.yaml.0123456789ab").write_text("see")  # half of a file that is renamed when it is whole
    opened(tmp_path)
    assert (run / "slurm-7.out").read_text() == "the job's output"
    assert not [path.name for path in run.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"of keys and values, found None"),
        (b"- 1\n- 2\n", r"of keys and values, found \[1, 2\]"),
        (b"seed: [1,\npart", r"line 2: not YAML: "),
        (b"seed: \xff", r"line 1: expected text in UTF-8, found the byte 0xff"),
        (bytes(100), r"unacceptable character"),
        (b"[" * 100_000, r"config.yaml"),
    ],
)
def test_a_damaged_configuration_is_named_with_what_to_do(tmp_path, content, message):
    folder = opened(tmp_path)
    path = folder.path / "config.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        opened(tmp_path)
    assert str(path) in str(error.value)
    assert str(error.value).endswith("; restore it from a copy, or choose another run_dir")
    assert path.read_bytes() == content


@pytest.mark.parametrize("content", [b"", b"[]", b'{"genotype": "12', b"\xff\xfe", bytes(64)])
def test_damaged_inputs_are_named_with_what_to_do(tmp_path, content, caplog):
    path = opened(tmp_path).path / "inputs.json"
    path.write_bytes(content)
    with pytest.raises(ValueError) as error:
        opened(tmp_path)
    assert str(error.value).startswith(f"{path}: expected ")
    assert "restore it, or delete it if the input files are those that the run began with" in str(error.value)
    path.unlink()
    opened(tmp_path)
    assert f"{path} is missing: the input files are taken to be those that the run began with" in caplog.text


def test_damaged_figures_are_named(tmp_path):
    folder = opened(tmp_path)
    path = folder.path / "metrics.json"
    for content in (b"", b'{"stage": "sea', b"[1]", bytes(64)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"^{path}.* expected "):
            folder.finished()
        assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({}, ": metrics is missing"),
        ({"metrics": []}, ": metrics = [], expected object"),
        ({"metrics": {"top1": "x"}}, ": metrics[...] = "),
        ({"metrics": {"top1": None}}, ": metrics[...] = "),
        ({"metrics": {}, "best": 3}, ": best = 3, expected object"),
        ({"metrics": {}, "steps": [1]}, ": steps = [1], expected int"),
    ],
)
def test_figures_of_another_form_are_named(tmp_path, content, told):
    folder = opened(tmp_path)
    (folder.path / "metrics.json").write_text(json.dumps(content))
    with pytest.raises(ValueError) as error:
        folder.finished()
    assert str(error.value).startswith(f"{folder.path / 'metrics.json'}{told}")


@pytest.mark.parametrize(
    "name",
    ["config.yaml", "inputs.json", "versions.json", "command.txt", "log.txt", "metrics.json", "metrics.csv"],
)
def test_no_regular_file_in_the_place_of_one_is_named_and_never_opened(tmp_path, name):
    path = opened(tmp_path).path / name
    path.unlink(missing_ok=True)
    for make, kind in ((os.mkfifo, "FIFO"), (os.mkdir, "folder")):
        make(path)
        with pytest.raises(ValueError, match=rf"^{path}: expected an? \w+ file, but this is a {kind}$"):
            opened(tmp_path)
        path.unlink() if kind == "FIFO" else path.rmdir()
    path.symlink_to(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match=rf"^{path}: no such \w+ file: a link to"):
        opened(tmp_path)


def test_the_log_of_a_chain_goes_on_in_its_stages(tmp_path):
    chain = RunFolder.open(str(tmp_path), {"run_dir": str(tmp_path)}, stage="pipeline")
    stages = [tmp_path / "search", tmp_path / "detection"]
    for folder in stages:
        RunFolder.open(str(folder), {"run_dir": str(folder)}, stage=folder.name)
        logging.getLogger("x").warning("in %s", folder.name)
    chain.log("pipeline")
    logging.getLogger("x").warning("at the end")
    logs = [(folder / "log.txt").read_text() for folder in (tmp_path, *stages)]
    assert [[word in text for word in ("in search", "in detection", "at the end")] for text in logs] == [
        [True, True, True],
        [True, False, False],
        [False, True, False],
    ]
    assert f"search: {stages[0]}" in logs[1].splitlines()[0]  # the run folder first


def test_a_run_that_is_older_than_a_key_had_the_value_of_before(tmp_path):
    def started(**recipe):
        config = ClassificationConfig(
            run_dir=str(tmp_path / "run"), data=ImageDataConfig(), recipe=RecipeConfig(**recipe)
        )
        return RunFolder.open(config.run_dir, config, stage="classification")

    stored = started().path / "config.yaml"
    older = stored.read_text().replace("  head_init: fan_in\n", "")
    stored.write_text(older)
    with pytest.raises(ValueError, match=r"recipe\.head_init: fan_out -> fan_in"):
        started()
    started(head_init="fan_out")
