"""Class folders of small photographs, and what the check says of them."""

import numpy as np
from PIL import Image

from classification.check_data import check


def photograph(path, seed, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)
    Image.fromarray(noise).resize((70, 50)).save(path, **options)


def problems(root, **options):
    return [(p.level, p.rule, p.count, p.names) for p in check(root, **options).problems]
