"""The evaluators in docs/search.md, by the commands beside them."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from search.ledger.reader import LEDGER, read_children

REPOSITORY = Path(__file__).resolve().parent.parent.parent
SMALL = (
    *("child.image_size=8", "child.filters=4", "child.cells_per_stage=1", "child.epochs=1"),
    *("child.training=64", "child.validation=100", "child.batch_size=32", "child.device=cpu"),
    *("budget.children=2", "window=2", "strategy=random", "logger=none", "run_dir=run"),
)


def documented(folder, name):
    """The children of a search by the evaluator that the text calls `name`."""
    section = (REPOSITORY / "docs" / "search.md").read_text().split("## Your own evaluator")[1]
    text = section[section.index(f"`{name}.py`") :]
    (folder / f"{name}.py").write_text(re.search(r"```python\n(.*?)```", text, re.S)[1])
    command = shlex.split(re.search(r"```sh\n(python -m search .*?)\n```", text, re.S)[1])
    environment = {"PYTHONPATH": f"{REPOSITORY}:{folder}", "PATH": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command[1:], *SMALL], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    rows = read_children(folder / "run" / LEDGER)
    assert len(rows) == 2
    return rows


@pytest.mark.slow
def test_evaluator_with_latency(tmp_path):
    for row in documented(tmp_path, "latency"):
        assert 0 < row.metrics["latency"] < 10
        weight = (row.metrics["latency"] / 0.02) ** -0.07
        assert row.reward == pytest.approx(row.accuracy * weight)
        assert 0 <= row.accuracy == row.curve[-1] <= 1


def test_evaluator_without_training(tmp_path):
    rows = documented(tmp_path, "untrained")
    assert len({row.reward for row in rows}) == 2
    for row in rows:
        assert row.failure is None
        assert row.metrics.keys() == {"spread"}
        assert row.seconds > 0 < row.cpu_seconds
