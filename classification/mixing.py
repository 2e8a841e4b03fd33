"""Mixup and CutMix: each batch blended with itself in another order, on the device.

Letters: N images, C channels, H W pixels, K classes.
"""

import math
import random

import torch
from torch import Tensor

from runtime.random import counter_hash


class Mixing:
    """Blends image i with image i - 1 of a shuffled batch; the target is a blend, too.

    Mixup (1710.09412) takes the share `lam` of each image and 1 - lam of its partner. CutMix (1905.04899)
    puts a rectangle of the partner, 1 - lam of the image where the border does not cut it, in its place. One
    lam for a batch, from Beta(alpha, alpha); with both alphas above 0 a batch takes either, as a coin falls.

    Everything drawn is a pure function of (seed, epoch, batch, rank), so a continued run mixes as an
    unbroken one.
    """

    def __init__(self, mixup_alpha: float, cutmix_alpha: float, num_classes: int, seed: int) -> None:
        self.mixup_alpha, self.cutmix_alpha = mixup_alpha, cutmix_alpha
        self.num_classes, self.seed = num_classes, seed

    def __call__(
        self, images: Tensor, labels: Tensor, *, epoch: int, batch: int, rank: int = 0
    ) -> tuple[Tensor, Tensor]:
        """images: float `[N, C, H, W]`, left as they are. labels: `[N]`. batch: its number in the epoch.

        Returns images of the same shape, and the probabilities of the classes, `[N, K]`.
        """
        draw = random.Random(int(counter_hash(self.seed, epoch, batch, rank, 3)[0]))
        cut = draw.random() < 0.5 if self.mixup_alpha and self.cutmix_alpha else self.cutmix_alpha > 0
        alpha = self.cutmix_alpha if cut else self.mixup_alpha
        lam = draw.betavariate(alpha, alpha)
        partner = images.roll(1, 0)
        if cut:
            height, width = images.shape[2:]
            top, bottom = _span(draw, height, lam)
            left, right = _span(draw, width, lam)
            images = images.clone()
            images[..., top:bottom, left:right] = partner[..., top:bottom, left:right]
            lam = 1 - (bottom - top) * (right - left) / (height * width)
        else:
            images = torch.add(images * lam, partner, alpha=1 - lam)
        targets = images.new_zeros(len(labels), self.num_classes).scatter_(1, labels[:, None], 1)
        return images, torch.add(targets * lam, targets.roll(1, 0), alpha=1 - lam)


def _span(draw: random.Random, size: int, lam: float) -> tuple[int, int]:
    """First and last + 1 of the cut's rows or columns; its middle is anywhere, so it may be cut off."""
    middle, half = draw.randrange(size), int(0.5 * math.sqrt(1 - lam) * size)
    return max(middle - half, 0), min(middle + half, size)
