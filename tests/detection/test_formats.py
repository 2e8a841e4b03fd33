"""`detection.formats`: what its checks look at."""

import pytest
import torch

from detection.formats import BEYOND, check_target


def on(device):
    return {
        "boxes": torch.tensor([[5.0, 6, 5, 6]], device=device),
        "labels": torch.tensor([7], device=device),
    }


def test_values_are_looked_at_only_where_no_gpu_has_to_be_waited_for():
    """A tensor on the meta device, as one on a GPU, is not on the CPU, and it has no values to look at."""
    check_target(on("meta"), (40, 50), 3, "targets[0]")
    with pytest.raises(ValueError, match="boxes"):
        check_target(on("cpu"), (40, 50), 3, "targets[0]")


def refused(*box):
    target = {"boxes": torch.tensor([box]), "labels": torch.tensor([2])}
    try:
        check_target(target, (40, 50), 3, "targets[0]")
    except ValueError:
        return True
    return False


def test_a_box_may_leave_the_image_by_what_was_rounded():
    assert not refused(-1e-3, 0.0, 50.0001, 40.0)
    assert not refused(-BEYOND, -BEYOND, 50 + BEYOND, 40 + BEYOND)
    assert refused(0.0, 0.0, 50.1 + BEYOND, 40.0)
    assert refused(0.0, -0.1 - BEYOND, 50.0, 40.0)
