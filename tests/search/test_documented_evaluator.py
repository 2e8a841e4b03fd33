"""The evaluator in docs/search.md, by the command beside it."""

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


def test_evaluator_with_latency(tmp_path):
    section = (REPOSITORY / "docs" / "search.md").read_text().split("## Your own evaluator")[1]
    (tmp_path / "latency.py").write_text(re.search(r"```python\n(.*?)```", section, re.S)[1])
    command = shlex.split(re.search(r"```sh\n(python -m search .*?)\n```", section, re.S)[1])
    environment = {"PYTHONPATH": f"{REPOSITORY}:{tmp_path}", "PATH": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command[1:], *SMALL], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    rows = read_children(tmp_path / "run" / LEDGER)
    assert len(rows) == 2
    for row in rows:
        assert 0 < row.metrics["latency"] < 10
        weight = (row.metrics["latency"] / 0.02) ** -0.07
        assert row.reward == pytest.approx(row.accuracy * weight)
        assert 0 <= row.accuracy == row.curve[-1] <= 1
