"""The benchmark of reading annotations on a small file."""

import pytest

from benchmarks.detection_data import MEMORY, TIME, WORKERS, generate, measure
from benchmarks.memory import STATUS
from detection.check_data import check


@pytest.mark.skipif(not STATUS.exists(), reason="reads the memory of processes as Linux tells it")
def test_both_sides_read_the_same_boxes(tmp_path):
    generate(tmp_path, images=40, boxes=300)
    assert check(tmp_path / "annotations.json", tmp_path / "images", decode=True).problems == []
    peer, own = (measure(side, tmp_path) for side in ("peer", "ours"))
    assert peer["boxes"] == own["boxes"] == 300 - 4  # without the crowd regions
    assert all(side[TIME] > 0 and side[MEMORY] > 0 and WORKERS in side for side in (peer, own))
