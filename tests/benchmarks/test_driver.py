"""The tables of the driver's benchmark: every part is counted once, every window is simulated."""

import pytest

from benchmarks.driver import PARTS, cpu_rows, window_rows


def test_the_parts_of_a_driver_are_all_of_it():
    header, row = cpu_rows(["random"], children=30, rounds=1)
    shown = dict(zip(header[:8], row[:8], strict=True))
    total = sum(float(shown[part]) for part in PARTS)
    assert float(shown["all"]) == pytest.approx(total, abs=0.005 * len(PARTS) + 0.005)
    assert float(shown["admission"]) > 0 < float(shown["ledger"])


def test_every_number_of_workers_has_three_windows():
    header, *rows = window_rows([2], children=30, seeds=0)
    assert header[:2] == ("workers", "window")
    assert [row[:2] for row in rows] == [("2", "2"), ("2", "4"), ("2", "8")]
    shares = [float(row[2].rstrip("%")) for row in rows]
    assert shares[0] < 95 < shares[1] <= shares[2] <= 100
