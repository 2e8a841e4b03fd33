"""How large a training on own photographs is, by their number and the device: `experiment=own_photos`.

On a CPU the head is that of `experiment=bccd`, which learns 205 images in minutes. On a GPU it is that of
Detectron2.
"""

import logging
from dataclasses import dataclass

from backbones.words import counted

log = logging.getLogger(__name__)

WITHOUT_DATA = 200
"""Images that are assumed where the data cannot be opened, which the training then tells."""
FEW = 0.25
"""Share of these steps below which a network with fresh weights has not begun to find anything."""


@dataclass(frozen=True)
class Sizes:
    """The values of the keys of the same names in the groups `data`, `recipe`, `detector` and `backbone`."""

    steps: int
    batch_size: int
    warmup_steps: int
    validate_every_steps: int
    min_sizes: list[int]
    test_min_size: int
    max_size: int
    workers: int
    cells_per_stage: int
    filters: int
    anchor_sizes: list[int]
    fpn_channels: int
    width: int
    proposals: int
    regions: int


def own_photos(
    images: int,
    *,
    cuda: bool,
    batch_size: int | None = None,
    steps: int | None = None,
    epochs: int | None = None,
) -> Sizes:
    """images: for training. batch_size, steps, epochs: what the user wants. None: what suits the device.

    Steps: 12 passes on a CPU, 300..3,000 steps; 60 passes on a GPU, 1,000..18,000."""
    batch = batch_size or min(8 if cuda else 2, max(1, images))
    passes, least, most = (60, 1000, 18_000) if cuda else (12, 300, 3000)
    if steps is None and epochs is not None:
        steps = max(1, epochs * (images // batch))
    elif steps is None:
        steps = min(max(passes * images // batch, least), most)
    warmup, every = min(steps // 6, 1000), max(50, steps // 5)
    if cuda:
        sides = [480, 512, 544, 576, 608, 640]
        return Sizes(
            *(steps, batch, warmup, every, sides, 640, 1067, 8, 4, 44),
            *([32, 64, 128, 256, 512], 256, 1024, 1000, 512),
        )
    return Sizes(
        *(steps, batch, warmup, every, [288, 320, 352], 320, 533, 1, 2, 24),
        *([16, 32, 64, 128, 256], 64, 256, 250, 64),
    )


def warn_of_few_steps(images: int, steps: int, batch_size: int, *, cuda: bool) -> None:
    """Warns of a training of fresh weights that is far shorter than `own_photos` would make it."""
    enough = own_photos(images, cuda=cuda, batch_size=batch_size).steps
    if steps < FEW * enough:
        log.warning(
            "%s: far too few for a detector from scratch, which will find next to nothing. For %s "
            "experiment=own_photos takes recipe.steps=%d; trained weights (backbone.weights=FILE) need fewer",
            *(counted(steps, "step"), counted(images, "training image"), enough),
        )
