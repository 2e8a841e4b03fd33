"""The training sections of the benchmark of detectors run, and refuse what is not the same."""

import pytest
import torch

from benchmarks import detection

pytest.importorskip("timm")
SIDE = 128


def works(rows):
    rows = list(rows)
    assert all(0 < row.quartiles[1] < 1000 for row in rows)
    return [(row.work, row.way) for row in rows]


@pytest.mark.slow
def test_a_step_and_a_look_are_compared_with_torchvision():
    assert works(detection.training(1, SIDE)) == [("training step, resnet50 128, batch 2", "ours")]
    work = "inference, resnet50 128, batch 2"
    assert works(detection.inference(1, SIDE)) == [(work, "as trained"), (work, "ours")]


@pytest.mark.slow
def test_a_driven_step_is_compared_with_a_plain_loop():
    rows = detection.overhead(2, SIDE, "timm/test_resnet")
    assert works(rows) == [("training step against a plain loop, resnet50 128, batch 2", "Lightning")]


@pytest.mark.slow
def test_detectors_that_see_something_else_are_not_compared():
    own = detection.own_detector(side=SIDE).eval()
    peer = detection.peer_detector(own, SIDE).eval()
    with torch.no_grad():
        own.fpn.inner_blocks[0][0].weight.mul_(1.01)
    with pytest.raises(SystemExit, match="map 0 differs from the peer's by"):
        detection.check_first_stage("step", own, peer, detection.batch(SIDE)[0])
