"""What two runs must have in common to be the same run."""

import torch

from runtime.resume import LAST


def checkpoint(folder):
    """Every tensor and number of a run's last checkpoint, by its place."""
    content = torch.load(folder / "checkpoints" / LAST, weights_only=True)
    del content["loops"]  # Lightning's counters of started and finished parts, which a kill may change
    return dict(leaves(content))


def leaves(value, path=""):
    """The same of any nested value, in pairs."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(item, dict | list | tuple):
            yield from leaves(item, f"{path}/{key}")
        else:
            yield f"{path}/{key}", item.tolist() if isinstance(item, torch.Tensor) else item
