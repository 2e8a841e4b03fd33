"""How long training takes on this machine, from a few timed steps."""

import time

import torch
from torch.nn import functional

from backbones.genotype import Genotype
from runtime.device import resolve_device
from search.children.config import ChildConfig
from search.children.cost import predicted_cost
from search.children.training import child_network, logits, repeatable

STEP_SECONDS = 0.25
"""Predicted time of a timed step, from which its number of images follows; at most `batch_size`."""
MOST_STEPS = 4
MOST_SECONDS = 2.5
"""After which no further step begins."""


def real_per_predicted(genotype: Genotype, config: ChildConfig) -> tuple[float, int]:
    """Real seconds of training for each predicted one, on random pixels, and how many steps were timed.

    Takes about 3 seconds on one CPU core, the first step, which is not timed, included. The state of the
    random generators is the same afterwards."""
    device = resolve_device(config.device)
    per_image = predicted_cost(genotype, config, images=1).microseconds / config.epochs / 1e6
    batch = config.batch_size
    if device.type == "cpu":
        batch = max(2, min(batch, round(STEP_SECONDS / per_image)))
    with repeatable(config, device):
        network = child_network(genotype, config, 10, device)
        optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=config.momentum)
        pixels = torch.randn(batch, 3, config.image_size, config.image_size, device=device)
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        labels = torch.zeros(batch, dtype=torch.long, device=device)
        times: list[float] = []
        begun = time.monotonic()
        while len(times) <= MOST_STEPS and (len(times) < 2 or time.monotonic() - begun < MOST_SECONDS):
            start = time.monotonic()
            optimizer.zero_grad()
            functional.cross_entropy(logits(network, pixels, config), labels).backward()
            optimizer.step()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times.append(time.monotonic() - start)
    timed = sorted(times[1:])
    return timed[len(timed) // 2] / (per_image * batch), len(timed)
