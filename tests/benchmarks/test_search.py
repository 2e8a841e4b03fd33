"""The benchmarks of a search run, and the laws of predicted memory hold on a few cells."""

import re

import pytest

from benchmarks.child_costs import costs, random_cells
from benchmarks.search import CPU, SETTINGS, WALL, children, keys
from classification.config import ImageDataConfig
from search.children.config import ChildConfig

DIGITS = ImageDataConfig(name="digits", flip=False, crop_padding=1, train_limit=200)
TINY = ChildConfig(filters=4, cells_per_stage=1, epochs=1, batch_size=40, validation=40, training=80)

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_memory_of_children_in_one_warm_process_is_predicted():
    """Largest first would show memory that the process does not give back; the order here is random."""
    table = costs(6, 2, ChildConfig(filters=16, epochs=1))
    assert "| within 1.3x | 100 % |" in table
    least, median, most = map(float, re.search(r"GB \| ([\d.]+), ([\d.]+), ([\d.]+)", table).groups())
    assert 1 / 1.3 <= least <= median <= most <= 1.3


def test_children_of_both_ways_are_compared(capsys):
    rows = list(children(1, 1, DIGITS, TINY, random_cells(1, blocks=1)))
    assert [(row.work, row.way) for row in rows] == [
        (work, "executor=process") for work in (WALL, CPU, "accuracy")
    ]
    assert all(re.fullmatch(r"[\d.]+ %", text) for text in (rows[2].peer, rows[2].own))


def test_keys_are_compared():
    rows = list(keys(1, [1], DIGITS, TINY, random_cells(1, blocks=1)))
    assert len(rows) == len(SETTINGS) - 1
    assert rows[-1].way == "precision=bf16-mixed channels_last=True workers=1"
