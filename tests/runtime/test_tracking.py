import csv
import hashlib
import logging
import os
import signal
import time

import pytest
import wandb
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from runtime import patience
from runtime.code_version import code_version
from runtime.config import LoggerConfig
from runtime.csv_logger import CsvLogger
from runtime.tracking import build_loggers, finish, log_artifact, log_costs, log_summary
from runtime.wandb_runs import FILE, Input, WandbRun, describe


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_csv_gets_a_column_for_every_figure_ever_logged(tmp_path):
    logger = CsvLogger(tmp_path / "metrics.csv")
    logger.log_metrics({"loss": 1.5}, 0)
    logger.save()
    logger.log_metrics({"loss": 1.0}, 1)
    logger.save()
    logger.log_metrics({"top1": 0.5}, 1)
    logger.finalize("success")
    assert rows(tmp_path / "metrics.csv") == [
        {"step": "0", "loss": "1.5", "top1": ""},
        {"step": "1", "loss": "1.0", "top1": ""},
        {"step": "1", "loss": "", "top1": "0.5"},
    ]


def test_a_resumed_run_takes_the_place_of_the_rows_that_it_repeats(tmp_path):
    first = CsvLogger(tmp_path / "metrics.csv")
    for step in range(5):
        first.log_metrics({"loss": step}, step)
    first.save()
    resumed = CsvLogger(tmp_path / "metrics.csv")
    for step in (3, 4, 5):
        resumed.log_metrics({"loss": 10 + step}, step)
    resumed.save()
    found = [(row["step"], float(row["loss"])) for row in rows(tmp_path / "metrics.csv")]
    assert found == [("0", 0), ("1", 1), ("2", 2), ("3", 13), ("4", 14), ("5", 15)]


@pytest.fixture
def nobody_logged_in(tmp_path_factory, monkeypatch):
    """No key in the environment, in the home folder or in this process; the network must not be needed."""
    home = tmp_path_factory.mktemp("home")
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_CONFIG_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("NETRC", str(home / "netrc"))
    wandb.teardown()  # forgets what it read from the environment before
    yield
    wandb.teardown()


def test_wandb_is_offline_without_a_login_and_takes_figures_and_files(tmp_path, nobody_logged_in):
    loggers = build_loggers(LoggerConfig(name="wandb", group="chain"), tmp_path, "search", {"seed": 1})
    assert loggers[1].experiment.settings.mode == "offline"
    (tmp_path / "genotype.json").write_text("{}")
    for logger in loggers:
        logger.log_metrics({"reward": 0.5}, 0)
    log_artifact(loggers, tmp_path / "genotype.json", "genotype")
    finish(loggers)
    assert rows(tmp_path / "metrics.csv") == [{"step": "0", "reward": "0.5"}]
    records = list((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(records) == 1
    wandb.teardown()  # waits for its process, which writes last
    content = records[0].read_bytes()
    assert [word for word in (b"reward", b"genotype.json") if word not in content] == []


def test_costs_are_in_wandbs_summary_and_the_others_scalars(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    costs = {"parameters": 300_000, "multiply_adds": 4_000_000}
    loggers = build_loggers(LoggerConfig(name="wandb"), tmp_path, "classification", {})
    log_costs(loggers, costs, 7)
    assert {key: loggers[1].experiment.summary[key] for key in costs} == costs
    finish(loggers)
    written = [{key: float(value) for key, value in row.items()} for row in rows(tmp_path / "metrics.csv")]
    assert written == [{"step": 7, **costs}]
    loggers = build_loggers(LoggerConfig(name="tensorboard"), tmp_path, "classification", {})
    log_costs(loggers, costs, 7)
    finish(loggers)
    written = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    for key, value in costs.items():
        assert [(event.step, event.value) for event in written.Scalars(key)] == [(7, value)]
    assert "hp_metric" not in written.Tags()["scalars"]  # Lightning's -1


def test_a_continued_stage_is_one_run_of_wandb(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    ids = []
    for folder in (tmp_path / "a", tmp_path / "a", tmp_path / "b"):
        folder.mkdir(exist_ok=True)
        loggers = build_loggers(LoggerConfig(name="wandb"), folder, "search", {})
        ids.append(loggers[1].experiment.id)
        finish(loggers)
    assert ids[0] == ids[1] != ids[2]
    assert WandbRun.load(tmp_path / "a").id == ids[0]
    (tmp_path / "b" / FILE).unlink()
    (tmp_path / "b" / "wandb_id.txt").write_text("0123456789abcdef\n")  # of an older version
    loggers = build_loggers(LoggerConfig(name="wandb"), tmp_path / "b", "search", {})
    assert loggers[1].experiment.id == "0123456789abcdef"
    finish(loggers)


def test_a_run_of_wandb_says_what_it_is_of(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    chain = tmp_path / "chain 1"
    (chain / "search").mkdir(parents=True)
    values = {"data": {"name": "digits"}, "strategy": {"name": "controller"}}
    config = LoggerConfig(name="wandb", group="chain 1")
    loggers = build_loggers(config, chain / "search", "search", values, {"sha256": "12"})
    run = loggers[1].experiment
    assert (run.name, run.group, run.job_type) == ("chain 1 · search", "chain 1", "search")
    assert set(run.tags) == {"search", "pipeline", "digits", "controller"}
    assert run.config["data"] == {"name": "digits"}
    assert run.config["celltransfer"]["version"] == code_version()
    assert run.config["celltransfer"]["data"] == {"sha256": "12"}
    log_summary(loggers, {"AP": 0.5, "APl": float("nan"), "steps": None, "children": 3})
    assert {key: run.summary[key] for key in ("AP", "children")} == {"AP": 0.5, "children": 3}
    assert not {"APl", "steps"} & {*run.summary.keys()}
    (chain / "search" / "genotype.json").write_text("{}")
    finish(loggers)
    alone, multirun = tmp_path / "alone", tmp_path / "10-20-30" / "0"
    files = {"backbone": {"name": str(chain / "search" / "genotype.json")}}
    digest = hashlib.sha256(b"{}").hexdigest()
    for folder, name in ((alone, "alone"), (multirun, "10-20-30/0")):
        folder.mkdir(parents=True)
        found = describe(folder, "classification", files, "p", None)
        assert (found.name, found.group) == (f"{name} · classification", None)
        assert found.inputs == {"backbone.name": Input("genotype", digest, "genotype-chain-1")}
        assert found.inputs["backbone.name"].reference == f"genotype-chain-1:sha256-{digest[:12]}"
    assert describe(multirun, "classification", {}, "p", None).artifact("backbone") == "backbone-10-20-30-0"


def test_how_to_send_runs_of_wandb_is_told_once_for_a_stage_and_for_a_chain(
    tmp_path, nobody_logged_in, caplog
):
    chain = tmp_path / "chain"
    for folder, group in ((tmp_path / "search", None), (chain / "search", "a"), (chain / "detection", "a")):
        folder.mkdir(parents=True)
        with caplog.at_level(logging.INFO):
            finish(build_loggers(LoggerConfig(name="wandb", group=group), folder, folder.name, {}))
    lines = [message for message in caplog.messages if message.startswith("wandb: ")]
    sync = "wandb: offline; python -m pipeline.wandb_sync"
    assert lines == [f"{sync} {tmp_path / 'search'} sends it", f"{sync} {chain} sends it"]


def test_a_failure_of_wandb_never_stops_a_run(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_MODE", "offline")
    loggers = build_loggers(LoggerConfig(name="wandb"), tmp_path, "search", {})
    run = loggers[1].experiment

    def broken(*_args, **_kwargs):
        raise wandb.errors.CommError("the network is gone")

    monkeypatch.setattr(type(run), "log", broken)
    with caplog.at_level(logging.WARNING):
        for step in range(3):
            for logger in loggers:
                logger.log_metrics({"reward": 0.5}, step)
    log_artifact(loggers, tmp_path / "absent.json", "genotype")
    finish(loggers)
    run.finish()
    assert caplog.text.count("the network is gone") == 1
    assert len(rows(tmp_path / "metrics.csv")) == 3


def test_wandb_that_cannot_start_leaves_the_csv_file(tmp_path, monkeypatch, caplog):
    def broken(*_args, **_kwargs):
        raise wandb.errors.UsageError("no")

    monkeypatch.setattr(wandb, "init", broken)
    with caplog.at_level(logging.WARNING):
        loggers = build_loggers(LoggerConfig(name="wandb"), tmp_path, "search", {})
    assert [logger.name for logger in loggers] == ["csv"]
    assert "the run goes on without it" in caplog.text


def test_tensorboard_and_none(tmp_path):
    loggers = build_loggers(LoggerConfig(name="tensorboard"), tmp_path, "detection", {})
    for logger in loggers:
        logger.log_metrics({"loss": 0.5}, 0)
    finish(loggers)
    written = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in written.Scalars("loss")] == [(0, 0.5)]
    assert build_loggers(LoggerConfig(name="none"), tmp_path, "detection", {}) == []
    with pytest.raises(ValueError, match=r"name = 'mlflow', expected one of csv, wandb"):
        LoggerConfig(name="mlflow")


@pytest.mark.parametrize(
    "content", [b"step,loss\n0,1\nx,2\n", b"\xff\xfe", bytes(50), b"name,price\na,3\n", b'step,loss\n0,"1\n']
)
def test_a_damaged_csv_file_is_kept_aside_and_never_stops_a_run(tmp_path, caplog, content):
    path = tmp_path / "metrics.csv"
    path.write_bytes(content)
    logger = CsvLogger(path)
    logger.log_metrics({"loss": 0.5}, 3)
    logger.finalize("success")
    assert rows(path) == [{"step": "3", "loss": "0.5"}]
    assert (tmp_path / "metrics.csv.damaged").read_bytes() == content
    assert f"{path} is damaged and kept as metrics.csv.damaged" in caplog.text


def test_a_row_that_a_kill_cut_off_is_left_out(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("step,loss,lr\n0,1.5,0.1\n1,1.2")
    logger = CsvLogger(path)
    logger.log_metrics({"loss": 0.5}, 2)
    logger.save()
    assert [row["step"] for row in rows(path)] == ["0", "2"]


def test_a_csv_file_that_cannot_be_written_is_told_once_and_written_when_it_can(tmp_path, caplog):
    path = tmp_path / "away" / "metrics.csv"
    (tmp_path / "away").write_text("a file where the folder was")
    logger = CsvLogger(path)
    for step in range(3):
        logger.log_metrics({"loss": float(step)}, step)
        logger.save()
    assert caplog.text.count("could not be written, and the run goes on") == 1
    (tmp_path / "away").unlink()
    logger.finalize("success")
    assert [row["step"] for row in rows(path)] == ["0", "1", "2"]


def test_a_failure_of_tensorboard_never_stops_a_run(tmp_path, caplog):
    (tmp_path / "tensorboard").write_text("a file where its folder should be")
    loggers = build_loggers(LoggerConfig(name="tensorboard"), tmp_path, "search", {})
    for step in range(3):
        for logger in loggers:
            logger.log_metrics({"loss": 0.5}, step)
    finish(loggers)
    assert caplog.text.count("TensorBoard failed in log_metrics and is left out from here on") == 1
    assert len(rows(tmp_path / "metrics.csv")) == 3


def test_a_service_of_wandb_that_freezes_is_left_after_a_while(tmp_path, monkeypatch, caplog):
    wandb.teardown()
    monkeypatch.setenv("WANDB_MODE", "offline")
    loggers = build_loggers(LoggerConfig(name="wandb"), tmp_path, "search", {})
    service = [int(process.name) for process in patience._service_processes()]
    assert len(service) == 1
    monkeypatch.setattr(patience.patiently, "__defaults__", (1.0,))
    os.kill(service[0], signal.SIGSTOP)
    start = time.monotonic()
    for logger in loggers:
        logger.log_metrics({"loss": 0.5}, 0)
    finish(loggers)
    wandb.teardown()  # what wandb does at the end of the process
    assert time.monotonic() - start < 10
    assert "wandb did not close its run (wandb sync sends what it has): no answer for 1 s" in caplog.text
    assert len(rows(tmp_path / "metrics.csv")) == 1
    again = build_loggers(LoggerConfig(name="wandb"), tmp_path, "search", {})  # such as the next stage
    assert len(again) == 2
    finish(again)
    wandb.teardown()


def test_a_service_of_wandb_that_is_at_work_is_waited_for(monkeypatch):
    moved = iter(range(0, 10**9, patience.MOVING_BYTES))
    monkeypatch.setattr(patience, "_bytes_moved", lambda: next(moved))
    assert patience.patiently(lambda: time.sleep(1.5) or "sent", 0.3) == "sent"
