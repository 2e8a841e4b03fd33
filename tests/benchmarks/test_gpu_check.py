"""The script for a GPU, rehearsed on a CPU."""

import time

import pytest
import torch

from benchmarks import gpu_check
from benchmarks.ratios import Row


def sections_of(name, device="cpu"):
    return gpu_check.parts(device, 1, tiny=True)[name]


@pytest.mark.parametrize("name", ["c4"])
def test_each_part_runs_small(name):
    rows, notes = gpu_check.run({name: sections_of(name)}, 600)
    assert not notes
    assert rows
    assert all(row.quartiles[1] > 0 for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["exact", "networks", "detector", "children"])
def test_the_longer_parts_run_small(name):
    rows, notes = gpu_check.run({name: sections_of(name)}, 600)
    assert not notes
    assert bool(rows) == (name != "exact")


def test_what_is_missing_unequal_or_late_is_said_and_the_rest_runs():
    def raising(error):
        def section():
            raise error
            yield

        return section

    def slow():
        time.sleep(0.2)
        yield Row("work", "way", "1", "1", (1.0, 1.0, 1.0), None, False)

    chosen = {
        "missing": [raising(ImportError("No module named 'timm'"))],
        "unequal": [raising(AssertionError("logits differ"))],
        "large": [raising(torch.OutOfMemoryError("CUDA out of memory.\nTried"))],
        "slow": [slow, slow],
    }
    rows, notes = gpu_check.run(chosen, 0.1)
    assert len(rows) == 1
    assert notes == [
        "missing 1 of 1: left out, No module named 'timm'",
        "unequal 1 of 1: not equal: logits differ",
        "large 1 of 1: left out, CUDA out of memory.",
        "slow 2 of 2: left out, the time was over",
    ]


def test_a_machine_without_a_gpu_is_told(monkeypatch):
    monkeypatch.setattr("sys.argv", ["gpu_check"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="no CUDA GPU on this machine; --device cpu --tiny rehearses"):
        gpu_check.main()
