"""`detection.formats`: what its checks look at."""

import pytest
import torch

from detection.formats import check_target


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


def test_a_box_may_leave_the_image_by_what_was_rounded():
    target = {"boxes": torch.tensor([[-1e-3, 0, 50.0001, 40]]), "labels": torch.tensor([2])}
    check_target(target, (40, 50), 3, "targets[0]")
