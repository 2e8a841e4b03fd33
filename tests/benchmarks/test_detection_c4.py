"""The benchmark of the paper's detector runs on a small one, and notices another network's numbers."""

import pytest
import torch

from backbones.factory import create
from benchmarks.detection_c4 import check_equal, detector, inference


def small():
    return create("nasnet_a_mobile", cells_per_stage=1, filters=8, stem_filters=4, image_size=64)


def test_every_way_has_a_row():
    rows = list(inference(1, small(), 64))
    assert [row.way for row in rows] == [
        "as trained, chunks of 32",
        *(f"chunks of {n}" for n in (16, 32, 64)),
    ]
    assert all(row.quartiles[1] > 0 for row in rows)


@torch.no_grad()
def test_other_numbers_are_noticed():
    plain = detector(small(), 64)
    fast = plain.for_inference()
    image = torch.rand(3, 64, 64)
    check_equal(plain, fast, image)
    fast.backbone.cells["reduction_1"].bias += 0.1
    with pytest.raises(AssertionError, match="not close"):
        check_equal(plain, fast, image)
