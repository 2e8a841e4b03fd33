"""The benchmark of start-up measures CPU time, and notices commands that fail or say nothing."""

import pytest

from benchmarks.startup import to_first_line, whole

BUSY = "import time\nwhile time.process_time() < 0.3: pass\n"


def test_cpu_seconds_of_a_whole_process_are_counted():
    assert 0.3 <= whole("-c", BUSY) < 2
    with pytest.raises(RuntimeError, match="ended with 3"):
        whole("-c", "raise SystemExit(3)")


def test_cpu_seconds_to_the_first_line_are_counted():
    waiting = "import sys, time\nprint('runs/a', file=sys.stderr, flush=True)\ntime.sleep(60)\n"
    assert 0.29 <= to_first_line("-c", BUSY + waiting) < 2  # the kernel counts hundredths
    for silent in ("pass", "raise ValueError"):
        with pytest.raises(RuntimeError, match="first"):
            to_first_line("-c", silent)
